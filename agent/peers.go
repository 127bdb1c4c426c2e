package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
	"golang.org/x/crypto/curve25519"
)

func publicKey(private model.Key) model.Key {
	var k model.Key
	pub, err := curve25519.X25519(private[:], curve25519.Basepoint)
	if err == nil { // only a low order point can fail, and the base point is none
		copy(k[:], pub)
	}
	return k
}

// peerStatus joins what the tunnel knows of its peers with what the store says of the nodes behind them.
func (a *Agent) peerStatus(snap *model.Snapshot, p *plan.Plan) []api.Peer {
	live := map[model.Key]tunnel.PeerStatus{}
	a.path.use(func(_ *servicelb.Balancer, tun *tunnel.Tunnel) {
		for _, s := range tun.Peers() {
			live[s.PublicKey] = s
		}
	})
	var out []api.Peer
	for _, want := range p.Peers {
		s := live[want.PublicKey]
		x := api.Peer{Name: want.Name, PublicKey: want.PublicKey.String(), Endpoints: want.Endpoints, AllowedIPs: want.AllowedIPs,
			MTU: want.MTU, LastHandshake: s.LastHandshake, RxBytes: s.RxBytes, TxBytes: s.TxBytes, PathMTU: s.PathMTU, Foreign: want.Foreign}
		if s.Endpoint.IsValid() {
			x.Endpoint = s.Endpoint.String()
		}
		if snap != nil {
			if n, ok := snap.Node(want.Name); ok && !want.Foreign {
				x.Alive, x.PodCIDRs, x.Version = n.Alive, n.PodCIDRs, n.Version
			}
		}
		out = append(out, x)
	}
	return out
}

// quiet is how long a peer may go without a handshake while we send to it: WireGuard rekeys after two minutes and
// gives a session up after three (RejectAfterTime).
const quiet = 3 * time.Minute

func peerProblems(peers []api.Peer) (out []string) {
	for _, p := range peers {
		switch {
		case p.Foreign:
		case !p.Alive:
			out = append(out, fmt.Sprintf("node %s: its agent does not renew its lease in the store (stopped, or cut off)", p.Name))
		case p.TxBytes > 0 && p.LastHandshake.IsZero():
			out = append(out, fmt.Sprintf("node %s: no handshake yet; is UDP %s reachable?", p.Name, p.Endpoint))
		case p.TxBytes > 0 && p.RxBytes == 0 && time.Since(p.LastHandshake) > quiet:
			out = append(out, fmt.Sprintf("node %s: last handshake %s ago", p.Name, time.Since(p.LastHandshake).Truncate(time.Second)))
		}
	}
	return out
}

// foreignPeers are the WireGuard peers an operator added to this node only. They are kept on disk.
type foreignPeers struct {
	mu    sync.Mutex
	path  string
	peers []api.ForeignPeer
}

const peersLayout = 1

func (f *foreignPeers) load(path string) error {
	f.path = path
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := model.Decode(raw, peersLayout, &f.peers); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func (f *foreignPeers) records() []api.ForeignPeer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.peers)
}

func (f *foreignPeers) list() (out []tunnel.Peer) {
	for _, p := range f.records() {
		k, err := model.ParseKey(p.PublicKey)
		if err != nil {
			continue // set refused it; only a hand-edited file gets here
		}
		out = append(out, tunnel.Peer{Name: p.Name, PublicKey: k, Endpoints: p.Endpoints, AllowedIPs: p.AllowedIPs,
			Keepalive: time.Duration(p.Keepalive) * time.Second, Foreign: true})
	}
	return out
}

// set replaces the list, on disk first.
func (f *foreignPeers) set(peers []api.ForeignPeer) error {
	raw, err := model.Encode(peersLayout, peers)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(f.path, raw, 0o600); err != nil {
		return err
	}
	f.peers = peers
	return nil
}

// checkForeign reports everything that is wrong with a peer at once.
func (a *Agent) checkForeign(p api.ForeignPeer) error {
	var errs []error
	if _, err := model.ParseKey(p.PublicKey); err != nil {
		errs = append(errs, fmt.Errorf("publicKey: %w", err))
	}
	if p.Name == "" {
		errs = append(errs, errors.New("name: is empty"))
	}
	if len(p.AllowedIPs) == 0 {
		errs = append(errs, errors.New("allowedIPs: is empty; expected at least one prefix such as 10.99.0.5/32"))
	}
	if p.Keepalive < 0 || p.Keepalive > 65535 {
		errs = append(errs, fmt.Errorf("keepalive: %d is outside 0 to 65535 seconds", p.Keepalive))
	}
	snap := a.snapshot.Load()
	for _, ip := range p.AllowedIPs {
		if snap == nil {
			break
		}
		for _, b := range snap.Blocks {
			if b.CIDR.Overlaps(ip) {
				errs = append(errs, fmt.Errorf("allowedIPs: %s overlaps %s, the block of node %s", ip, b.CIDR, b.Node))
			}
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) addPeer(w http.ResponseWriter, r *http.Request) {
	var p api.ForeignPeer
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("peer: %w", err))
		return
	}
	for i := range p.AllowedIPs {
		p.AllowedIPs[i] = p.AllowedIPs[i].Masked()
	}
	if err := a.checkForeign(p); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	a.changePeers(w, p.PublicKey, &p)
}

func (a *Agent) removePeer(w http.ResponseWriter, r *http.Request) {
	a.changePeers(w, r.URL.Query().Get("publicKey"), nil)
}

// changePeers replaces the peer of that key by p, or removes it.
func (a *Agent) changePeers(w http.ResponseWriter, key string, p *api.ForeignPeer) {
	f := &a.foreign
	f.mu.Lock()
	defer f.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(f.peers), func(x api.ForeignPeer) bool { return x.PublicKey == key })
	if p == nil && len(next) == len(f.peers) {
		refuse(w, http.StatusNotFound, fmt.Errorf("no foreign peer has the public key %q", key))
		return
	}
	if p != nil {
		next = append(next, *p)
	}
	if err := f.set(next); err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	a.kick()
	reply(w, struct{}{})
}
