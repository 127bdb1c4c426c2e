//go:build k8s

package k8s

import (
	"strings"
	"testing"
	"time"
)

// These tests check the accounting of the probers; they need no cluster, but this package's TestMain does.

func TestPhase_NoRequests_IsTooFew(t *testing.T) {
	start := time.Now()
	ph := &phase{"upgrade", start, map[string]*tally{}}
	spans := []*span{{probe: probe{What: "Service"}, start: start}}
	if errs := ph.tooFew(spans, start.Add(time.Second)); len(errs) != 0 {
		t.Errorf("a phase of one second: %v", errs)
	}
	end := start.Add(probeStart + probeTimeout + 10*time.Second)
	if errs := ph.tooFew(spans, end); len(errs) != 1 || !strings.Contains(errs[0].Error(), "expected at least 20") {
		t.Errorf("%v, expected one error with at least 20 requests", errs)
	}
	ph.tallies["Service"] = &tally{sent: 20}
	if errs := ph.tooFew(spans, end); len(errs) != 0 {
		t.Errorf("with 20 requests: %v", errs)
	}
	if errs := ph.tooFew([]*span{{probe: probe{What: "Service"}, start: start, end: start.Add(time.Second)}}, end); len(errs) != 0 {
		t.Errorf("a prober that was stopped: %v", errs)
	}
}

func TestPhase_FailuresBeyondAllowance_AreErrors(t *testing.T) {
	allowed := []allowance{{"node port", 3}}
	for _, c := range []struct {
		name   string
		failed map[string]int
		errors int
	}{
		{"none", map[string]int{"node port of n1": 0}, 0},
		{"as many as tolerated", map[string]int{"node port of n1": 1, "node port of n2": 2}, 0},
		{"more than tolerated in total", map[string]int{"node port of n1": 2, "node port of n2": 2}, 1},
		{"without an allowance", map[string]int{"Service from n1": 1}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			ph := &phase{"upgrade", time.Now(), map[string]*tally{}}
			for what, n := range c.failed {
				ph.tallies[what] = &tally{sent: 100, failed: n, why: map[string]int{}}
			}
			if errs := ph.tooManyFailed(allowed); len(errs) != c.errors {
				t.Errorf("%v, expected %d errors", errs, c.errors)
			}
		})
	}
}

func TestProbers_UnparsableOutput_IsAnError(t *testing.T) {
	p := newProbers()
	p.begin("phase")
	good := `{"What":"x","Start":"2026-01-02T03:04:05Z","Ms":1}` + "\n"
	if err := p.read(strings.NewReader(good)); err != nil || p.phases[0].tallies["x"].sent != 1 {
		t.Errorf("%v %+v, expected one request", err, p.phases[0].tallies)
	}
	if err := p.read(strings.NewReader("panic: x\n" + good)); err == nil || !strings.Contains(err.Error(), "panic: x") {
		t.Errorf("%v, expected the line that is not a result", err)
	}
}
