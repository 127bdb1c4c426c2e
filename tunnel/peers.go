package tunnel

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/internal/model"
	"golang.zx2c4.com/wireguard/conn"
)

// Peer is another node, or a foreign WireGuard host, as it should be.
type Peer struct {
	// Name is for people and logs.
	Name         string
	PublicKey    model.Key
	PresharedKey model.Key // zero: none
	// Endpoints are underlay addresses to try, the preferred one first. None means that the peer comes to us.
	Endpoints []netip.AddrPort
	// AllowedIPs are the prefixes the peer owns: it may send from them, and what goes to them goes to it.
	AllowedIPs []netip.Prefix
	// MTU is the largest inner packet in bytes that the path to the peer takes; 0 means the device's MTU.
	MTU int
	// Keepalive is the interval of empty packets that hold NAT mappings open; 0 means none. Whole seconds count.
	Keepalive time.Duration
	// Probe is an address of the peer's that answers ICMP echo requests inside the tunnel, to find out how large a packet the
	// path carries; invalid: the path is taken to carry MTU.
	Probe netip.Addr
	// Foreign marks a peer that is not a node of the cluster; status shows it.
	Foreign bool
}

// PeerStatus is a peer as the engine has it.
type PeerStatus struct {
	Name      string
	PublicKey model.Key
	Foreign   bool
	// Endpoint is the address in use; invalid if there is none.
	Endpoint netip.AddrPort
	// LastHandshake is zero before the first one.
	LastHandshake time.Time
	RxBytes       uint64
	TxBytes       uint64
	AllowedIPs    []netip.Prefix
	Keepalive     time.Duration
	// MTU is the largest inner packet in bytes sent to the peer. PathMTU is what the path was found to carry if that is less
	// than both ends' MTU, else 0.
	MTU, PathMTU int
}

// minMTU is what IPv6 needs (RFC 8200, section 5); less only happens with nonsense in the configuration.
const minMTU = 576

// peerState is a desired peer: what routes point at. want never changes; a changed wish makes a new state.
type peerState struct {
	want Peer
	ends []conn.Endpoint // of want.Endpoints
	at   atomic.Uint32   // the one in use, counted without end
	path atomic.Int32    // bytes that the path carries, 0: as much as both ends
	live atomic.Bool     // had a session when last looked at: what goes into the engine for it comes out
}

func newPeerState(p Peer, parse func(string) (conn.Endpoint, error)) *peerState {
	s := &peerState{want: p}
	for _, e := range p.Endpoints {
		if end, err := parse(e.String()); err == nil {
			s.ends = append(s.ends, end)
		}
	}
	return s
}

// rotate gives up the endpoint in use for the next one; nil if there is none to try. With a single endpoint it
// returns that: the peer may have roamed to where it is no more.
func (p *peerState) rotate() conn.Endpoint {
	if len(p.ends) == 0 {
		return nil
	}
	return p.ends[int(p.at.Add(1))%len(p.ends)]
}

// limit is the largest inner packet in bytes for the peer.
func (p *peerState) limit(d *tunDevice) int {
	top := p.promised(d)
	if n := int(p.path.Load()); n != 0 && n < top {
		return n
	}
	return top
}

// promised is the smaller MTU of both ends in bytes. The engine pads packets to multiples of 16 up to the device's MTU;
// where the peer's is smaller, only multiples of 16 are safe from growing over it.
func (p *peerState) promised(d *tunDevice) int {
	mtu := int(d.mtuNow.Load())
	if p.want.MTU == 0 || p.want.MTU >= mtu {
		return mtu
	}
	return max(p.want.MTU&^15, minMTU)
}

// normalize returns the usable peers with masked prefixes, in the given order, and an error for everything that
// had to be left out: a bad peer costs nobody else the tunnel.
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
				errs = errors.Join(errs, fmt.Errorf("peer %s: allowed address %v is not a prefix", p.Name, c))
				continue
			}
			c = c.Masked()
			if other, taken := owners[c]; taken {
				if other != p.Name {
					errs = errors.Join(errs, fmt.Errorf("peer %s: %v belongs to peer %s already", p.Name, c, other))
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
	return good, errs
}

func usableEndpoints(p Peer, errs error) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, e := range p.Endpoints {
		if !e.IsValid() || e.Port() == 0 || e.Addr().IsUnspecified() || e.Addr().IsMulticast() {
			errs = errors.Join(errs, fmt.Errorf("peer %s: endpoint %v cannot be sent to", p.Name, e))
			continue
		}
		out = append(out, netip.AddrPortFrom(e.Addr().Unmap(), e.Port()))
	}
	return out, errs
}

// change is one peer's part of a plan: the text for the engine, in two steps. Removals come after all additions, so
// that a prefix which moves between peers is never without an owner.
type change struct {
	peer        string
	add, remove string
}

// plan compares what the engine has with what is wanted and returns only the differences. before holds the
// endpoints of the last wish by key: an endpoint is set when the wish for it has changed, not when the peer has
// roamed.
func plan(have map[model.Key]PeerStatus, psk map[model.Key]model.Key, want []Peer, before map[model.Key][]netip.AddrPort) []change {
	var out []change
	wanted := map[model.Key]bool{}
	for _, p := range want {
		wanted[p.PublicKey] = true
		h, known := have[p.PublicKey]
		c := change{peer: p.Name}
		var b strings.Builder
		if psk[p.PublicKey] != p.PresharedKey {
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
	for key, h := range have {
		if !wanted[key] {
			out = append(out, change{peer: h.Name, remove: keyLine(key) + "remove=true\n"})
		}
	}
	return out
}

func keyLine(k model.Key) string { return "public_key=" + hex.EncodeToString(k[:]) + "\n" }

// endpointToSet decides whether the engine must be told an endpoint.
func endpointToSet(p Peer, h PeerStatus, before []netip.AddrPort) (netip.AddrPort, bool) {
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
