package tunnel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/uapi"
	"golang.org/x/sys/unix"
)

// uapiDevice decides about requests of wg(8). "wg set", "wg syncconf" and "wg setconf" may repeat what is configured, and set the
// endpoint of a peer (roaming does the same, and a handshake that fails undoes it). Key, port and mark belong to the agent: EPERM.
// New peers come from the store or from `warren peer add`: EPERM. Every other setting of a peer belongs to the store. Such a change
// is answered with success, not passed to the WireGuard device, and logged, so no session and no packet is lost to it.
type uapiDevice struct{ t *Tunnel }

// uapiPart is the part of the agent that has a problem while the socket is not open.
const uapiPart = "socket of wg(8)"

// serveUAPI serves the socket of wg(8) until ctx ends. While another process answers on it, it tries again. tried is called after the
// first attempt.
func (t *Tunnel) serveUAPI(ctx context.Context, tried func()) {
	defer tried()
	t.sockets.Run(ctx, uapiPart, func(ctx context.Context, up func()) error {
		l, err := uapi.Listen(t.cfg.UAPIDir, t.cfg.Name)
		if err == nil {
			up()
		} else {
			t.sockets.Report(uapiPart, err)
		}
		tried()
		if err != nil {
			return err
		}
		return uapi.Serve(ctx, l, uapiDevice{t})
	})
}

// Get returns the WireGuard device's own answer.
func (u uapiDevice) Get() (string, error) {
	u.t.mu.Lock()
	defer u.t.mu.Unlock()
	if u.t.wg == nil {
		return "", unix.ENODEV
	}
	return u.t.wg.IpcGet()
}

// Set carries out a request, completely or not at all.
func (u uapiDevice) Set(r uapi.Request) error {
	t := u.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wg == nil {
		return unix.ENODEV
	}
	if err := t.permitted(r); err != nil {
		t.cfg.Log.Warn("refused a change through the WireGuard socket", "err", err)
		return err
	}
	named := map[model.Key]bool{}
	for i := range r.Peers {
		p := &r.Peers[i]
		s := t.states[p.Key]
		if s == nil {
			continue
		}
		named[p.Key] = true
		if p.Endpoint.IsValid() && !p.Remove {
			if err := t.configure(s.want.Name, "set", keyLine(p.Key)+"endpoint="+p.Endpoint.String()+"\n"); err != nil {
				return err
			}
		}
		if what := deviation(p, s.want); what != "" {
			t.cfg.Log.Warn("ignored a change through the WireGuard socket: peers are set by the cluster", "peer", s.want.Name,
				"object", what)
		}
	}
	if r.ReplacePeers {
		for _, w := range t.want {
			if !named[w.PublicKey] {
				t.cfg.Log.Warn("ignored a change through the WireGuard socket: peers are set by the cluster", "peer", w.Name, "object",
					"peer")
			}
		}
	}
	return nil
}

// permitted returns an error for changes that must not be answered with success.
func (t *Tunnel) permitted(r uapi.Request) error {
	if r.PrivateKey != nil && *r.PrivateKey != t.cfg.PrivateKey {
		return fmt.Errorf("private key: it is created once and cannot be changed: %w", unix.EPERM)
	}
	if r.ListenPort != nil && *r.ListenPort != t.cfg.ListenPort {
		return fmt.Errorf("listen port %d: set it in the agent's configuration: %w", *r.ListenPort, unix.EPERM)
	}
	if r.Mark != nil && *r.Mark != 0 {
		return fmt.Errorf("mark %d: not supported: %w", *r.Mark, unix.EPERM)
	}
	for _, p := range r.Peers {
		if t.states[p.Key] == nil && !p.Remove && !p.UpdateOnly && p.Key != t.public {
			return fmt.Errorf("peer %s: use warren peer add: %w", p.Key, unix.EPERM)
		}
	}
	return nil
}

// deviation names what the request would change about a peer, or "".
func deviation(p *uapi.RequestPeer, want Peer) string {
	ips := slices.Clone(want.AllowedIPs)
	if p.ReplaceIPs {
		ips = nil
	}
	ips = append(ips, p.AddIPs...)
	ips = slices.DeleteFunc(ips, func(c netip.Prefix) bool { return slices.Contains(p.LessIPs, c) })
	switch {
	case p.Remove:
		return "peer"
	case p.PresharedKey != nil && *p.PresharedKey != want.PresharedKey:
		return "preshared key"
	case p.Keepalive != nil && *p.Keepalive != want.Keepalive.Truncate(time.Second):
		return "persistent keepalive"
	case !samePrefixes(ips, want.AllowedIPs):
		return "allowed ips"
	}
	return ""
}

func samePrefixes(a, b []netip.Prefix) bool {
	for _, c := range a {
		if !slices.Contains(b, c) {
			return false
		}
	}
	for _, c := range b {
		if !slices.Contains(a, c) {
			return false
		}
	}
	return true
}
