// Package uapi is the cross-platform userspace API of WireGuard (https://www.wireguard.com/xplatform/): it parses the state of the
// WireGuard device, and serves the socket of wg(8).
//
// It owns that socket and the goroutines of its connections, which Serve joins. It changes nothing: the Device decides about every
// request.
package uapi

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// State is the configuration of the WireGuard device, as its "get" operation prints it
// (https://www.wireguard.com/xplatform/#configuration-protocol).
type State struct {
	Peers map[model.Key]Peer
}

// Peer is one peer of it.
type Peer struct {
	PublicKey    model.Key
	PresharedKey model.Key      // zero: none
	Endpoint     netip.AddrPort // invalid: none
	// LastHandshake is zero before the first one.
	LastHandshake    time.Time
	RxBytes, TxBytes uint64
	AllowedIPs       []netip.Prefix
	Keepalive        time.Duration // 0: none
}

// ParseState parses that text. Unknown lines are skipped: newer devices may print more.
func ParseState(text string) (State, error) {
	s := State{Peers: map[model.Key]Peer{}}
	var key model.Key
	var p Peer
	var sec, nsec int64
	flush := func() {
		if key.IsZero() {
			return
		}
		if sec != 0 || nsec != 0 {
			p.LastHandshake = time.Unix(sec, nsec)
		}
		s.Peers[key] = p
	}
	scan := bufio.NewScanner(strings.NewReader(text))
	for scan.Scan() {
		name, value, ok := strings.Cut(scan.Text(), "=")
		if !ok {
			continue
		}
		var err error
		switch name {
		case "public_key":
			flush()
			key, err = hexKey(value)
			p, sec, nsec = Peer{PublicKey: key}, 0, 0
		case "preshared_key":
			p.PresharedKey, err = hexKey(value)
		case "endpoint":
			p.Endpoint, err = netip.ParseAddrPort(value)
		case "last_handshake_time_sec":
			sec, err = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			nsec, err = strconv.ParseInt(value, 10, 64)
		case "tx_bytes":
			p.TxBytes, err = strconv.ParseUint(value, 10, 64)
		case "rx_bytes":
			p.RxBytes, err = strconv.ParseUint(value, 10, 64)
		case "persistent_keepalive_interval":
			var n uint64
			n, err = strconv.ParseUint(value, 10, 16)
			p.Keepalive = time.Duration(n) * time.Second
		case "allowed_ip":
			var c netip.Prefix
			c, err = netip.ParsePrefix(value)
			p.AllowedIPs = append(p.AllowedIPs, c)
		}
		if err != nil {
			return s, fmt.Errorf("parse state of the WireGuard device: unreadable value of %s", name) // never the value: it may be a key
		}
	}
	flush()
	return s, scan.Err()
}

func hexKey(s string) (k model.Key, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("expected 64 hexadecimal digits, got %d characters", len(s))
	}
	copy(k[:], b)
	return k, nil
}
