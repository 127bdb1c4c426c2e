package agent

import (
	"fmt"

	"github.com/warrennet/warren/agent/nodekey"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/tunnel"
)

// keyConfig is what a replacement of the node's key works with.
func (a *Agent) keyConfig() nodekey.Config {
	return nodekey.Config{Node: a.cfg.NodeName, Snapshot: a.source.Load, Exclusive: a.store.Exclusive, Switch: a.switchKey,
		Ready: a.tunnelRuns, External: func() int { return len(a.external.List()) },
		Handled: a.disk.KeyRotation, SetHandled: a.disk.SetKeyRotation, Changed: a.kick, Log: a.log}
}

// heartbeatKeys authenticate the heartbeats of load balancer announcements.
func (a *Agent) heartbeatKeys() announce.Keys {
	return announce.Keys{
		Own: func() (out []model.Key) {
			for _, p := range a.keys.Pairs() {
				out = append(out, p.Public)
			}
			return out
		},
		Secret: func(own, peer model.Key) ([]byte, error) {
			for _, p := range a.keys.Pairs() {
				if p.Public == own {
					return tunnel.SharedSecret(p.Private, peer)
				}
			}
			return nil, fmt.Errorf("key %s of this node was replaced", own)
		},
	}
}

// switchKey gives the tunnel another key.
func (a *Agent) switchKey(key model.Key) (ok bool, err error) {
	ok = a.path.Use(func(_ *servicelb.Balancer, tun *tunnel.Tunnel) { err = tun.SetPrivateKey(key) })
	return ok, err
}

// tunnelRuns reports whether there is a tunnel that switchKey can change.
func (a *Agent) tunnelRuns() bool {
	return a.path.Use(func(*servicelb.Balancer, *tunnel.Tunnel) {})
}
