package tunnel

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/warrennet/warren/tunnel/internal/counters"
	"golang.zx2c4.com/wireguard/device"
)

// The WireGuard device reports events of a peer through its log only. Its lines are matched by their formats, not by their text, so
// nothing is formatted for that. A test triggers each event with the version of wireguard-go in use.
const (
	logNoAnswer  = "Handshake did not complete after %d seconds"
	logReplay    = "handshake replay"
	logHandshake = "Received handshake "
	logCrossed   = "Received invalid response message from"
	logResponse  = "Sending handshake response"
	logBadSource = "packet with disallowed source address from"
	logNoInit    = "Failed to send handshake initiation"
	logNoAddress = "no known endpoint"
)

// repeatAfter is the least time between two lines of the same format: some faults are logged once per batch of packets.
const repeatAfter = 10 * time.Second

// deviceLogConfig is what a deviceLog needs.
type deviceLogConfig struct {
	log      *slog.Logger
	stats    *counters.Set
	noAnswer func(*device.Peer) // called in the WireGuard device's timer, before it sends the next handshake
	replay   func(*device.Peer)
	// responding is called in the goroutine that sends the response, before it is made, and without locks of the device.
	responding func(*device.Peer)
	crossed    func(from string) // a handshake response arrived that matches no initiation of this node
}

// deviceLog turns the log of the WireGuard device into events, counters and few lines.
type deviceLog struct {
	deviceLogConfig
	mu         sync.Mutex
	last       map[string]time.Time // by format
	suppressed map[string]int       // lines since then
}

func newDeviceLog(c deviceLogConfig) *deviceLog {
	return &deviceLog{deviceLogConfig: c, last: map[string]time.Time{}, suppressed: map[string]int{}}
}

func (l *deviceLog) logger() *device.Logger {
	return &device.Logger{Verbosef: l.verbose, Errorf: l.errors}
}

func (l *deviceLog) verbose(format string, args ...any) {
	switch {
	case strings.Contains(format, logNoAnswer):
		if p, ok := argument[*device.Peer](args, 0); ok {
			l.noAnswer(p)
		}
	case strings.Contains(format, logReplay):
		if p, ok := argument[*device.Peer](args, 0); ok {
			l.replay(p)
		}
	case strings.Contains(format, logCrossed):
		if from, ok := argument[string](args, 0); ok {
			l.crossed(from)
		}
	case strings.Contains(format, logResponse):
		if p, ok := argument[*device.Peer](args, 0); ok && l.responding != nil {
			l.responding(p)
		}
	case strings.Contains(format, logHandshake):
		l.stats.Handshakes.Add(1)
	case strings.Contains(format, logBadSource):
		l.stats.Drop(counters.DropSource)
	}
}

// argument returns the argument of that index if there is one and it has the expected type.
func argument[T any](args []any, i int) (v T, ok bool) {
	if i >= len(args) {
		return v, false
	}
	v, ok = args[i].(T)
	return v, ok
}

func (l *deviceLog) errors(format string, args ...any) {
	if strings.Contains(format, logNoInit) {
		if err, ok := argument[error](args, 1); ok && strings.Contains(err.Error(), logNoAddress) {
			l.stats.Drop(counters.DropNoEndpoint)
			return // a peer without an endpoint initiates the handshake itself: no fault
		}
	}
	l.mu.Lock()
	now := time.Now()
	if since, seen := l.last[format]; seen && now.Sub(since) < repeatAfter {
		l.suppressed[format]++
		l.mu.Unlock()
		return
	}
	suppressed := l.suppressed[format]
	l.last[format], l.suppressed[format] = now, 0
	l.mu.Unlock()
	log := l.log
	if suppressed > 0 {
		log = log.With("count", suppressed) // lines of this format that were left out since the last one
	}
	log.Warn("WireGuard device reports a fault", "problem", fmt.Sprintf(format, args...))
}
