package uapi

import (
	"bufio"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"golang.org/x/sys/unix"
)

// Request is a "set" operation. Nil and zero values mean that the request does not mention the setting.
type Request struct {
	PrivateKey   *model.Key
	ListenPort   *uint16
	Mark         *uint32
	ReplacePeers bool
	Peers        []RequestPeer
}

// RequestPeer is one peer's part of a Request.
type RequestPeer struct {
	Key             model.Key
	Remove          bool
	UpdateOnly      bool
	ReplaceIPs      bool
	PresharedKey    *model.Key
	Endpoint        netip.AddrPort
	Keepalive       *time.Duration
	AddIPs, LessIPs []netip.Prefix // allowed IPs to add and to remove
}

// ParseSet reads a request up to its empty line.
func ParseSet(in *bufio.Reader) (r Request, err error) {
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
			r.Peers = append(r.Peers, RequestPeer{Key: key})
			continue
		}
		if len(r.Peers) == 0 {
			err = r.deviceLine(name, value)
		} else {
			err = r.Peers[len(r.Peers)-1].line(name, value)
		}
		if err != nil {
			return r, err
		}
	}
}

func (r *Request) deviceLine(name, value string) error {
	switch name {
	case "private_key":
		key, err := hexKey(value)
		if err != nil {
			return unix.EINVAL
		}
		r.PrivateKey = &key
	case "listen_port":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return unix.EINVAL
		}
		port := uint16(n)
		r.ListenPort = &port
	case "fwmark":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return unix.EINVAL
		}
		mark := uint32(n)
		r.Mark = &mark
	case "replace_peers":
		if value != "true" {
			return unix.EINVAL
		}
		r.ReplacePeers = true
	default:
		return unix.EINVAL
	}
	return nil
}

func (p *RequestPeer) line(name, value string) error {
	switch name {
	case "remove", "update_only", "replace_allowed_ips":
		if value != "true" {
			return unix.EINVAL
		}
		switch name {
		case "remove":
			p.Remove = true
		case "update_only":
			p.UpdateOnly = true
		default:
			p.ReplaceIPs = true
		}
	case "preshared_key":
		key, err := hexKey(value)
		if err != nil {
			return unix.EINVAL
		}
		p.PresharedKey = &key
	case "endpoint":
		e, err := netip.ParseAddrPort(value)
		if err != nil || e.Port() == 0 {
			return unix.EINVAL
		}
		p.Endpoint = e
	case "persistent_keepalive_interval":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return unix.EINVAL
		}
		d := time.Duration(n) * time.Second
		p.Keepalive = &d
	case "allowed_ip":
		rest, less := strings.CutPrefix(value, "-")
		c, err := netip.ParsePrefix(rest)
		if err != nil {
			return unix.EINVAL
		}
		if less {
			p.LessIPs = append(p.LessIPs, c.Masked())
		} else {
			p.AddIPs = append(p.AddIPs, c.Masked())
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
