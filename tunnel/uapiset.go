package tunnel

import (
	"bufio"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"golang.org/x/sys/unix"
)

// What "wg set", "wg syncconf" and "wg setconf" may do: say what is so already, and move the endpoint of a peer
// (roaming does the same, and a handshake that fails undoes it). Key, port and mark belong to the agent: EPERM. New
// peers come from the store or from `warren peer add`: EPERM. Everything else about a peer is the store's; such a
// change is answered with success, kept out of the engine, and logged as restored, so no session and no packet is
// lost to it.

// setRequest is a parsed "set" operation.
type setRequest struct {
	privateKey   *model.Key
	listenPort   *uint16
	mark         *uint32
	replacePeers bool
	peers        []setPeer
}

// setPeer is one peer's part of it.
type setPeer struct {
	key        model.Key
	remove     bool
	updateOnly bool
	replaceIPs bool
	psk        *model.Key
	endpoint   netip.AddrPort
	keepalive  *time.Duration
	ips        []netip.Prefix // to add
	lessIPs    []netip.Prefix // to take away
}

// parseSet reads a request up to its empty line.
func parseSet(in *bufio.Reader) (r setRequest, err error) {
	for {
		line, err := readLine(in)
		if err != nil {
			return r, err
		}
		if line == "" {
			return r, nil
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return r, errProtocol
		}
		if name == "public_key" {
			key, err := hexKey(value)
			if err != nil {
				return r, unix.EINVAL
			}
			r.peers = append(r.peers, setPeer{key: key})
			continue
		}
		if len(r.peers) == 0 {
			err = r.deviceLine(name, value)
		} else {
			err = r.peers[len(r.peers)-1].line(name, value)
		}
		if err != nil {
			return r, err
		}
	}
}

func (r *setRequest) deviceLine(name, value string) error {
	switch name {
	case "private_key":
		key, err := hexKey(value)
		if err != nil {
			return unix.EINVAL
		}
		r.privateKey = &key
	case "listen_port":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return unix.EINVAL
		}
		port := uint16(n)
		r.listenPort = &port
	case "fwmark":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return unix.EINVAL
		}
		mark := uint32(n)
		r.mark = &mark
	case "replace_peers":
		if value != "true" {
			return unix.EINVAL
		}
		r.replacePeers = true
	default:
		return unix.EINVAL
	}
	return nil
}

func (p *setPeer) line(name, value string) error {
	switch name {
	case "remove", "update_only", "replace_allowed_ips":
		if value != "true" {
			return unix.EINVAL
		}
		switch name {
		case "remove":
			p.remove = true
		case "update_only":
			p.updateOnly = true
		default:
			p.replaceIPs = true
		}
	case "preshared_key":
		key, err := hexKey(value)
		if err != nil {
			return unix.EINVAL
		}
		p.psk = &key
	case "endpoint":
		e, err := netip.ParseAddrPort(value)
		if err != nil || e.Port() == 0 {
			return unix.EINVAL
		}
		p.endpoint = e
	case "persistent_keepalive_interval":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return unix.EINVAL
		}
		d := time.Duration(n) * time.Second
		p.keepalive = &d
	case "allowed_ip":
		rest, less := strings.CutPrefix(value, "-")
		c, err := netip.ParsePrefix(rest)
		if err != nil {
			return unix.EINVAL
		}
		if less {
			p.lessIPs = append(p.lessIPs, c.Masked())
		} else {
			p.ips = append(p.ips, c.Masked())
		}
	case "protocol_version":
		if value != "1" {
			return unix.EINVAL
		}
	default:
		return unix.EINVAL
	}
	return nil
}

// uapiSet carries a request out, wholly or not at all.
func (t *Tunnel) uapiSet(in *bufio.Reader) error {
	r, err := parseSet(in)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.engine == nil {
		return unix.ENODEV
	}
	if err := t.permitted(&r); err != nil {
		t.cfg.Log.Warn("change by the WireGuard socket refused", "err", err)
		return err
	}
	named := map[model.Key]bool{}
	for i := range r.peers {
		p := &r.peers[i]
		s := t.states[p.key]
		if s == nil {
			continue
		}
		named[p.key] = true
		if p.endpoint.IsValid() && !p.remove {
			if err := t.tell(s.want.Name, "set", keyLine(p.key)+"endpoint="+p.endpoint.String()+"\n"); err != nil {
				return err
			}
		}
		if what := p.deviates(s.want); what != "" {
			t.cfg.Log.Warn("change by the WireGuard socket undone, peers are set by the cluster", "peer", s.want.Name, "restored", what)
		}
	}
	if r.replacePeers {
		for _, w := range t.want {
			if !named[w.PublicKey] {
				t.cfg.Log.Warn("change by the WireGuard socket undone, peers are set by the cluster", "peer", w.Name, "restored", "peer")
			}
		}
	}
	return nil
}

// permitted refuses what must not look as if it had worked.
func (t *Tunnel) permitted(r *setRequest) error {
	if r.privateKey != nil && *r.privateKey != t.cfg.PrivateKey {
		return fmt.Errorf("private key: the node's key is made once: %w", unix.EPERM)
	}
	if r.listenPort != nil && *r.listenPort != t.cfg.ListenPort {
		return fmt.Errorf("listen port %d: set it in the agent's configuration: %w", *r.listenPort, unix.EPERM)
	}
	if r.mark != nil && *r.mark != 0 {
		return fmt.Errorf("mark %d: not supported: %w", *r.mark, unix.EPERM)
	}
	for _, p := range r.peers {
		if t.states[p.key] == nil && !p.remove && !p.updateOnly && p.key != t.public {
			return fmt.Errorf("peer %s: use warren peer add: %w", p.key, unix.EPERM)
		}
	}
	return nil
}

// deviates names what the request would change about a peer, or "".
func (p *setPeer) deviates(want Peer) string {
	ips := slices.Clone(want.AllowedIPs)
	if p.replaceIPs {
		ips = nil
	}
	ips = append(ips, p.ips...)
	ips = slices.DeleteFunc(ips, func(c netip.Prefix) bool { return slices.Contains(p.lessIPs, c) })
	switch {
	case p.remove:
		return "peer"
	case p.psk != nil && *p.psk != want.PresharedKey:
		return "preshared key"
	case p.keepalive != nil && *p.keepalive != want.Keepalive.Truncate(time.Second):
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
