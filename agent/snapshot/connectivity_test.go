package snapshot

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// The log has one line when a store becomes unreachable, one when it is reachable again, and none for a first answer.
func TestConnectivity_StateChanges_LogsOneLineEach(t *testing.T) {
	var out bytes.Buffer
	c := Connectivity{name: "etcd", log: slog.New(slog.NewTextHandler(&out, nil))}
	for i, step := range []struct {
		err  error
		line string
	}{
		{nil, ""}, {nil, ""},
		{errors.New("x"), "store unreachable; using last known state\" name=etcd"}, {errors.New("y"), ""},
		{nil, "store reachable again\" name=etcd"}, {nil, ""},
		{errors.New("x"), "store unreachable; using last known state\" name=etcd"},
	} {
		out.Reset()
		if step.err == nil {
			c.ok()
		} else {
			c.failed(step.err)
		}
		if got := out.String(); step.line == "" && got != "" || !strings.Contains(got, step.line) {
			t.Errorf("step %d, %v: logged %q, expected %q", i, step.err, got, step.line)
		}
	}
}
