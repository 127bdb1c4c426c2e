package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/warrennet/warren/agent/extpeers"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/api"
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
			MTU: want.MTU, LastHandshake: s.LastHandshake, RxBytes: s.RxBytes, TxBytes: s.TxBytes, PathMTU: s.PathMTU, External: want.External}
		if s.Endpoint.IsValid() {
			x.Endpoint = s.Endpoint.String()
		}
		if snap != nil {
			if n, ok := snap.Node(want.Name); ok && !want.External {
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
		case p.External:
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

func (a *Agent) addPeer(w http.ResponseWriter, r *http.Request) {
	var p api.ExternalPeer
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("peer: %w", err))
		return
	}
	for i := range p.AllowedIPs {
		p.AllowedIPs[i] = p.AllowedIPs[i].Masked()
	}
	var blocks []model.Block
	if snap := a.source.Load(); snap != nil {
		blocks = snap.Blocks
	}
	if err := extpeers.Validate(p, blocks); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	if err := a.external.Put(p); err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	a.kick()
	reply(w, struct{}{})
}

func (a *Agent) removePeer(w http.ResponseWriter, r *http.Request) {
	err := a.external.Delete(r.URL.Query().Get("publicKey"))
	switch {
	case errors.Is(err, extpeers.ErrUnknown):
		refuse(w, http.StatusNotFound, err)
		return
	case err != nil:
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	a.kick()
	reply(w, struct{}{})
}
