package tunnel

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// The engine tells what happens to a peer only through its log. Its lines are matched by their formats, not by
// their text, so nothing is printed to find out; a test runs each event against the engine in use.
const (
	sayNoAnswer  = "Handshake did not complete after %d seconds"
	sayReplay    = "handshake replay"
	sayHandshake = "Received handshake "
	sayCrossed   = "Received invalid response message from"
	sayBadSource = "packet with disallowed source address from"
	sayNoInit    = "Failed to send handshake initiation"
	sayNoAddress = "no known endpoint"
)

// quiet is how long the same kind of engine error is not repeated: some come once per batch of packets.
const quiet = 10 * time.Second

// engineLog turns the engine's log into events, counters and few lines.
type engineLog struct {
	log      *slog.Logger
	stats    *counters
	noAnswer func(*device.Peer) // called in the engine's timer, before it tries again
	replay   func(*device.Peer)
	crossed  func(from string) // an answer came that fits no question of ours

	mu   sync.Mutex
	last map[string]time.Time
	kept map[string]int
}

func (l *engineLog) logger() *device.Logger {
	l.last, l.kept = map[string]time.Time{}, map[string]int{}
	return &device.Logger{Verbosef: l.verbose, Errorf: l.errors}
}

func (l *engineLog) verbose(format string, args ...any) {
	switch {
	case strings.Contains(format, sayNoAnswer):
		if p, ok := first(args); ok {
			l.noAnswer(p)
		}
	case strings.Contains(format, sayReplay):
		if p, ok := first(args); ok {
			l.replay(p)
		}
	case strings.Contains(format, sayCrossed):
		if from, ok := args[0].(string); ok {
			l.crossed(from)
		}
	case strings.Contains(format, sayHandshake):
		l.stats.handshakes.Add(1)
	case strings.Contains(format, sayBadSource):
		l.stats.drop(DropSource)
	}
}

func first(args []any) (*device.Peer, bool) {
	if len(args) == 0 {
		return nil, false
	}
	p, ok := args[0].(*device.Peer)
	return p, ok
}

func (l *engineLog) errors(format string, args ...any) {
	if strings.Contains(format, sayNoInit) && len(args) > 1 {
		if err, ok := args[1].(error); ok && strings.Contains(err.Error(), sayNoAddress) {
			l.stats.drop(DropNoEndpoint)
			return // a peer that has to come to us is no error
		}
	}
	l.mu.Lock()
	now := time.Now()
	if since, seen := l.last[format]; seen && now.Sub(since) < quiet {
		l.kept[format]++
		l.mu.Unlock()
		return
	}
	kept := l.kept[format]
	l.last[format], l.kept[format] = now, 0
	l.mu.Unlock()
	log := l.log
	if kept > 0 {
		log = log.With("leftOut", kept) // lines like it since the last one
	}
	log.Warn("wireguard: " + fmt.Sprintf(format, args...))
}
