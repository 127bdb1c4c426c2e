package agent

import (
	"time"

	"github.com/warrennet/warren/agent/nodekey"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// keyConfig is what a replacement of the node's key works with.
func (a *Agent) keyConfig() nodekey.Config {
	return nodekey.Config{Node: a.cfg.NodeName, Snapshot: a.source.Load, Exclusive: a.store.Exclusive, Switch: a.switchKey,
		Connected: a.connected, Handled: a.disk.KeyRotation, SetHandled: a.disk.SetKeyRotation, Changed: a.kick, Log: a.log}
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
