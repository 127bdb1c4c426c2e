package localapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/warrennet/warren/agent/extpeers"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel"
)

// peerStatus joins the planned peers, the device's state of them and the records of their nodes.
func peerStatus(snap *model.Snapshot, peers []tunnel.Peer, device []tunnel.PeerStatus) (out []api.Peer) {
	state := map[model.Key]tunnel.PeerStatus{}
	for _, s := range device {
		state[s.PublicKey] = s
	}
	for _, want := range peers {
		s, current := state[want.PublicKey]
		if !current {
			if s = state[want.NextKey]; s.PublicKey != (model.Key{}) { // the peer uses its next key already
				want.PublicKey = want.NextKey
			}
		}
		x := api.Peer{Name: want.Name, PublicKey: want.PublicKey.String(), Endpoints: want.Endpoints, AllowedIPs: want.AllowedIPs,
			MTU: want.MTU, LastHandshake: s.LastHandshake, RxBytes: s.RxBytes, TxBytes: s.TxBytes, PathMTU: s.PathMTU,
			External: want.External}
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

func peerProblems(peers []api.Peer) (out []string) {
	for _, p := range peers {
		switch {
		case p.External:
		case !p.Alive:
			out = append(out, fmt.Sprintf("node %s: its agent does not renew its lease in the store (stopped, or no connection to it)",
				p.Name))
		case p.TxBytes > 0 && p.LastHandshake.IsZero():
			out = append(out, fmt.Sprintf("node %s: no handshake yet; is UDP %s reachable?", p.Name, p.Endpoint))
		}
	}
	return out
}

func (s *Server) addPeer(w http.ResponseWriter, r *http.Request) {
	var p api.ExternalPeer
	if err := read(w, r, &p); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	for i := range p.AllowedIPs {
		p.AllowedIPs[i] = p.AllowedIPs[i].Masked()
	}
	var blocks []model.Block
	if snap := s.View.Snapshot(); snap != nil {
		blocks = snap.Blocks
	}
	if err := extpeers.Validate(p, blocks); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	// peers.json keeps one peer for each key: adding a key under another name would remove the other peer.
	for _, other := range s.External.List() {
		if other.PublicKey == p.PublicKey && other.Name != p.Name {
			refuse(w, http.StatusConflict, fmt.Errorf("external peer %s: external peer %s has this public key", p.Name, other.Name))
			return
		}
	}
	if p.PublicKey == s.View.Node().PublicKey {
		refuse(w, http.StatusBadRequest, fmt.Errorf("external peer %s: its public key is that of this node", p.Name))
		return
	}
	s.peersChanged(w, s.External.Put(p))
}

func (s *Server) removePeer(w http.ResponseWriter, r *http.Request) {
	s.peersChanged(w, s.External.Delete(r.URL.Query().Get("publicKey")))
}

// peersChanged answers a change of the external peers.
func (s *Server) peersChanged(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, extpeers.ErrUnknown):
		refuse(w, http.StatusNotFound, err)
	case err != nil:
		refuse(w, http.StatusInternalServerError, err)
	default:
		s.Changed()
		reply(w, struct{}{})
	}
}
