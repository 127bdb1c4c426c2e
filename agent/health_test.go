package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// The log has one line when a store goes away, one when it is back, and none for a first answer.
func TestStoreHealthIsLogged(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	var h storeHealth
	for _, c := range []struct {
		err  error
		line string
	}{
		{nil, ""}, {nil, ""}, {errors.New("x"), "the store is away"}, {errors.New("y"), ""}, {nil, "the store answers again"}, {nil, ""},
		{errors.New("x"), "the store is away"},
	} {
		out.Reset()
		if c.err == nil {
			h.ok(log, "the store")
		} else {
			h.failed(log, "the store", c.err)
		}
		if got := out.String(); c.line == "" && got != "" || !strings.Contains(got, c.line) {
			t.Errorf("%v: logged %q, expected %q", c.err, got, c.line)
		}
	}
}
