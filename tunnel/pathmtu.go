package tunnel

import (
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/pmtud"
)

// surveyPeers lists the peers for path MTU discovery.
func (t *Tunnel) surveyPeers() (out []pmtud.Peer) {
	status := t.Peers()
	t.markSessions(status)
	mtu, _ := t.dev.MTU()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range status {
		s := t.states[p.PublicKey]
		if s == nil {
			continue
		}
		out = append(out, pmtud.Peer{Name: p.Name, PublicKey: p.PublicKey, Endpoint: p.Endpoint, LastHandshake: p.LastHandshake,
			Live: s.owner.Live.Load(), Bytes: p.RxBytes + p.TxBytes, Target: s.want.Probe, PathMTU: int(s.owner.PathMTU.Load()),
			Configured: s.owner.Configured(mtu), Floor: s.owner.Floor()})
	}
	return out
}

// setPathMTU stores the path MTU of a peer as it is configured now.
func (t *Tunnel) setPathMTU(key model.Key, mtu int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.states[key]; s != nil {
		s.owner.PathMTU.Store(int32(mtu))
	}
}
