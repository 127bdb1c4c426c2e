package tunnel

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

// deviceState is the engine's configuration as its "get" operation prints it
// (https://www.wireguard.com/xplatform/#configuration-protocol).
type deviceState struct {
	privateKey model.Key
	listenPort uint16
	peers      map[model.Key]PeerStatus
	psk        map[model.Key]model.Key
	order      []model.Key
}

// parseState reads that text. Lines it does not know are passed over: newer engines may say more.
func parseState(text string) (deviceState, error) {
	s := deviceState{peers: map[model.Key]PeerStatus{}, psk: map[model.Key]model.Key{}}
	var key model.Key
	var p PeerStatus
	var sec, nsec int64
	flush := func() {
		if key.IsZero() {
			return
		}
		if sec != 0 || nsec != 0 {
			p.LastHandshake = time.Unix(sec, nsec)
		}
		s.peers[key] = p
		s.order = append(s.order, key)
	}
	scan := bufio.NewScanner(strings.NewReader(text))
	for scan.Scan() {
		name, value, ok := strings.Cut(scan.Text(), "=")
		if !ok {
			continue
		}
		var err error
		switch name {
		case "private_key":
			s.privateKey, err = hexKey(value)
		case "listen_port":
			var n uint64
			n, err = strconv.ParseUint(value, 10, 16)
			s.listenPort = uint16(n)
		case "public_key":
			flush()
			key, err = hexKey(value)
			p, sec, nsec = PeerStatus{PublicKey: key}, 0, 0
		case "preshared_key":
			s.psk[key], err = hexKey(value)
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
			return s, fmt.Errorf("engine state: %s: unreadable value", name) // never the value: it may be a key
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
