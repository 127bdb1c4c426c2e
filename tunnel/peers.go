package tunnel

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/route"
	"github.com/warrennet/warren/tunnel/internal/uapi"
	"golang.zx2c4.com/wireguard/conn"
)

// Peer is the desired configuration of another node, or of an external peer.
type Peer struct {
	// Name appears in logs and in the status.
	Name         string
	PublicKey    model.Key
	NextKey      model.Key // the key that the peer is about to use in place of PublicKey; zero: none
	PresharedKey model.Key // zero: none
	// Endpoints are underlay addresses, the preferred one first. Without any, the peer initiates the handshakes.
	Endpoints []netip.AddrPort
	// AllowedIPs are the prefixes that the peer owns: it may send from them, and packets to them are sent to it.
	AllowedIPs []netip.Prefix
	// MTU is the MTU of the peer's own device in bytes; 0 means the MTU of this node's device.
	MTU int
	// Keepalive is the interval, in whole seconds, of empty packets that hold NAT mappings open; 0 means none.
	Keepalive time.Duration
	// Probe is an address of the peer that answers ICMP echo requests inside the tunnel, for path MTU discovery; invalid: there is
	// no discovery, and packets of MTU bytes are sent.
	Probe netip.Addr
	// External marks a peer that is not a node of the cluster.
	External bool

	standby bool // one of the two keys of a peer, which is not in use; see rotation.go
	former  bool // a standby that the peer has used before
}

// PeerStatus is a peer as the WireGuard device has it.
type PeerStatus struct {
	Name      string
	PublicKey model.Key
	External  bool
	// Endpoint is the address in use; invalid if there is none.
	Endpoint netip.AddrPort
	// LastHandshake is zero before the first one.
	LastHandshake time.Time
	RxBytes       uint64
	TxBytes       uint64
	AllowedIPs    []netip.Prefix
	Keepalive     time.Duration
	// MTU is the size of the largest inner packet sent to the peer, in bytes. PathMTU is the discovered path MTU if it is less than
	// the MTU of both ends, else 0.
	MTU, PathMTU int
}

// peerState is a desired peer. want never changes; a changed peer gets a new state.
type peerState struct {
	want  Peer
	owner *route.Owner    // what the routes point at
	ends  []conn.Endpoint // of want.Endpoints
	at    atomic.Uint32   // index of the one in use, modulo their number
}

func newPeerState(p Peer, parse func(string) (conn.Endpoint, error)) *peerState {
	s := &peerState{want: p, owner: &route.Owner{AllowedIPs: p.AllowedIPs, MTU: p.MTU}}
	for _, e := range p.Endpoints {
		if end, err := parse(e.String()); err == nil {
			s.ends = append(s.ends, end)
		}
	}
	return s
}

// rotate returns the next endpoint after the one in use; nil if the peer has none. With a single endpoint it returns that: the peer
// may have roamed to an address where it no longer is.
func (p *peerState) rotate() conn.Endpoint {
	if len(p.ends) == 0 {
		return nil
	}
	return p.ends[int(p.at.Add(1))%len(p.ends)]
}

// normalize returns the usable peers with masked prefixes, in the given order, and an error for each peer, prefix or endpoint that
// was left out: an invalid peer does not affect the others.
func normalize(peers []Peer, own model.Key) (good []Peer, errs error) {
	keys := map[model.Key]string{}
	owners := map[netip.Prefix]string{}
	for _, p := range peers {
		switch other, twice := keys[p.PublicKey]; {
		case p.PublicKey.IsZero():
			errs = errors.Join(errs, fmt.Errorf("peer %s: no public key", p.Name))
			continue
		case p.PublicKey == own:
			errs = errors.Join(errs, fmt.Errorf("peer %s: has this node's own key", p.Name))
			continue
		case twice:
			errs = errors.Join(errs, fmt.Errorf("peer %s: has the same key as peer %s", p.Name, other))
			continue
		}
		keys[p.PublicKey] = p.Name
		var ips []netip.Prefix
		for _, c := range p.AllowedIPs {
			if !c.IsValid() || c.Addr().Is4In6() {
				errs = errors.Join(errs, fmt.Errorf("peer %s: allowed IP %v: expected a prefix", p.Name, c))
				continue
			}
			c = c.Masked()
			if other, taken := owners[c]; taken {
				if other != p.Name {
					errs = errors.Join(errs, fmt.Errorf("peer %s: prefix %v: peer %s has it already", p.Name, c, other))
				}
				continue
			}
			owners[c] = p.Name
			ips = append(ips, c)
		}
		p.AllowedIPs = ips
		p.Endpoints, errs = usableEndpoints(p, errs)
		good = append(good, p)
	}
	for i := range good {
		p := &good[i]
		other, taken := keys[p.NextKey]
		switch {
		case p.NextKey.IsZero():
			continue
		case taken, p.NextKey == own:
			errs = errors.Join(errs, fmt.Errorf("peer %s: next key %s: expected a new key, but %s has it", p.Name, p.NextKey,
				cmp.Or(other, "this node")))
			p.NextKey = model.Key{}
			continue
		}
		keys[p.NextKey] = p.Name
	}
	return good, errs
}

func usableEndpoints(p Peer, errs error) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, e := range p.Endpoints {
		if !e.IsValid() || e.Port() == 0 || e.Addr().IsUnspecified() || e.Addr().IsMulticast() {
			errs = errors.Join(errs, fmt.Errorf("peer %s: endpoint %v: expected a unicast address and a port", p.Name, e))
			continue
		}
		out = append(out, netip.AddrPortFrom(e.Addr().Unmap(), e.Port()))
	}
	return out, errs
}

// change is the UAPI text for one peer, in two steps. Removals come after all additions, so that a prefix which moves between peers
// is never without an owner.
type change struct {
	peer        string
	add, remove string
}

// plan compares the peers of the WireGuard device with the desired ones and returns the differences. before has the endpoints of the
// previous SetPeers by key: an endpoint is set when the desired endpoints have changed, not when the peer has roamed.
func plan(have map[model.Key]uapi.Peer, want []Peer, before map[model.Key][]netip.AddrPort) []change {
	var out []change
	wanted := map[model.Key]bool{}
	for _, p := range want {
		wanted[p.PublicKey] = true
		h, known := have[p.PublicKey]
		c := change{peer: p.Name}
		var b strings.Builder
		if h.PresharedKey != p.PresharedKey {
			fmt.Fprintf(&b, "preshared_key=%x\n", p.PresharedKey[:])
		}
		if e, set := endpointToSet(p, h, before[p.PublicKey]); set {
			fmt.Fprintf(&b, "endpoint=%s\n", e)
		}
		if secs := int(p.Keepalive / time.Second); secs != int(h.Keepalive/time.Second) {
			fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", secs)
		}
		for _, ip := range p.AllowedIPs {
			if !slices.Contains(h.AllowedIPs, ip) {
				fmt.Fprintf(&b, "allowed_ip=%s\n", ip)
			}
		}
		if b.Len() > 0 || !known {
			c.add = keyLine(p.PublicKey) + b.String()
		}
		b.Reset()
		for _, ip := range h.AllowedIPs {
			if !slices.Contains(p.AllowedIPs, ip) {
				fmt.Fprintf(&b, "allowed_ip=-%s\n", ip)
			}
		}
		if b.Len() > 0 {
			c.remove = keyLine(p.PublicKey) + "update_only=true\n" + b.String()
		}
		if c.add != "" || c.remove != "" {
			out = append(out, c)
		}
	}
	for key := range have {
		if !wanted[key] {
			out = append(out, change{peer: key.String(), remove: keyLine(key) + "remove=true\n"})
		}
	}
	return out
}

func keyLine(k model.Key) string { return "public_key=" + hex.EncodeToString(k[:]) + "\n" }

// endpointToSet reports whether the endpoint of a peer must be set, and returns it.
func endpointToSet(p Peer, h uapi.Peer, before []netip.AddrPort) (netip.AddrPort, bool) {
	switch {
	case len(p.Endpoints) == 0:
		return netip.AddrPort{}, false
	case !h.Endpoint.IsValid():
		return p.Endpoints[0], true
	case slices.Equal(p.Endpoints, before), slices.Contains(p.Endpoints, h.Endpoint):
		return netip.AddrPort{}, false
	}
	return p.Endpoints[0], true
}
