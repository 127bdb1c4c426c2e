package agent

import (
	"fmt"
	"time"

	"github.com/warrennet/warren/agent/nodekey"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/tunnel"
)

// keyConfig is what a replacement of the node's key works with.
func (a *Agent) keyConfig() nodekey.Config {
	return nodekey.Config{Node: a.cfg.NodeName, Snapshot: a.source.Load, Exclusive: a.store.Exclusive, Switch: a.switchKey,
		Connected: a.connected, Handled: a.disk.KeyRotation, SetHandled: a.disk.SetKeyRotation, Changed: a.kick, Log: a.log}
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

// sessionLifetime is how long WireGuard uses a session (Reject-After-Time).
const sessionLifetime = 180 * time.Second

// connected reports whether there is a session with the peer of that key.
func (a *Agent) connected(key model.Key) (yes bool) {
	a.path.Use(func(_ *servicelb.Balancer, tun *tunnel.Tunnel) {
		for _, p := range tun.Peers() {
			yes = yes || p.PublicKey == key && time.Since(p.LastHandshake) < sessionLifetime
		}
	})
	return yes
}
