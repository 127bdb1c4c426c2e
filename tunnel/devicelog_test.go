package tunnel

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/warrennet/warren/tunnel/internal/counters"
	"golang.zx2c4.com/wireguard/device"
)

// A version of wireguard-go that logs an event with other arguments must not end the process.
func TestDeviceLog_UnexpectedArguments_AreIgnored(t *testing.T) {
	var out bytes.Buffer
	events := 0
	l := newDeviceLog(deviceLogConfig{log: slog.New(slog.NewTextHandler(&out, nil)), stats: &counters.Set{},
		noAnswer: func(*device.Peer) { events++ }, replay: func(*device.Peer) { events++ }, crossed: func(string) { events++ }})
	for _, format := range []string{logNoAnswer, logReplay, logHandshake, logCrossed, logBadSource, logNoInit} {
		for _, args := range [][]any{nil, {}, {nil}, {1, 2}, {errors.New("x")}} {
			t.Run(format, func(t *testing.T) {
				l.logger().Verbosef(format, args...)
				l.logger().Errorf(format, args...)
			})
		}
	}
	if events != 0 {
		t.Errorf("%d events without their argument", events)
	}
}

func TestDeviceLog_SameFormatTwice_IsLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	l := newDeviceLog(deviceLogConfig{log: slog.New(slog.NewTextHandler(&out, nil)), stats: &counters.Set{}})
	for range 3 {
		l.logger().Errorf("Failed to send data packets: %v", errors.New("x"))
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != 1 {
		t.Errorf("%d lines, expected 1:\n%s", n, &out)
	}
}
