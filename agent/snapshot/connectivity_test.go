package snapshot

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
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

// A store that sends no answer is unreachable, although no request has failed. Any answer ends that.
func TestConnectivity_NoAnswer_UnreachableAfterLimit(t *testing.T) {
	now := time.Unix(1e9, 0)
	var out bytes.Buffer
	c := Connectivity{name: "etcd", log: slog.New(slog.NewTextHandler(&out, nil)), limit: AnswerLimit, now: func() time.Time { return now }}
	if st := c.State(); st.Connected || st.Error != "" {
		t.Errorf("before the first answer: %+v", st)
	}
	c.ok()
	first := now
	now = now.Add(AnswerLimit - time.Second)
	if st := c.State(); !st.Connected || !st.Since.Equal(first) {
		t.Errorf("before the limit: %+v", st)
	}
	c.ok()
	last := now
	for _, age := range []time.Duration{AnswerLimit, 2 * AnswerLimit} {
		now = last.Add(age)
		if st := c.State(); st.Connected || !st.Since.Equal(last) || st.Error != "no answer for "+age.String() {
			t.Errorf("%s after the last answer: %+v", age, st)
		}
	}
	if n := strings.Count(out.String(), "store unreachable"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, out.String())
	}
	c.failed(errors.New("refused"))
	now = now.Add(AnswerLimit)
	if st := c.State(); st.Connected || st.Error != "refused" {
		t.Errorf("after a failed request: %+v", st)
	}
	c.ok()
	if st := c.State(); !st.Connected || !st.Since.Equal(now) || !strings.Contains(out.String(), "store reachable again") {
		t.Errorf("after an answer: %+v\n%s", st, out.String())
	}
}
