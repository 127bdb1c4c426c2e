package main

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestParseIperf_ValidReport_ReturnsWhatArrived(t *testing.T) {
	for _, c := range []struct {
		name, report string
		udp          bool
		want         transfer
	}{
		{"TCP", `{"end":{"sum_sent":{"bytes":9,"bits_per_second":9},"sum_received":{"bytes":1000,"bits_per_second":8000}}}`, false,
			transfer{1000, 8000}},
		{"UDP with loss", `{"end":{"sum":{"bytes":1000,"bits_per_second":8000,"lost_percent":25}}}`, true, transfer{750, 6000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := parseIperf(c.report, c.udp); err != nil || got != c.want {
				t.Errorf("%+v %v, expected %+v", got, err, c.want)
			}
		})
	}
}

func TestParseIperf_FailedRun_IsAnError(t *testing.T) {
	for _, c := range []struct {
		name, report string
		udp          bool
	}{
		{"no output", "", false},
		{"cut short", `{"start":{},"intervals":[`, false},
		{"error in the report", `{"start":{},"end":{},"error":"unable to connect to server: Connection refused"}`, false},
		{"error and sums", `{"end":{"sum_received":{"bytes":1,"bits_per_second":1}},"error":"the server has terminated"}`, false},
		{"no sums", `{"start":{},"end":{}}`, false},
		{"zero bytes", `{"end":{"sum_received":{"bytes":0,"bits_per_second":0}}}`, false},
		{"all lost", `{"end":{"sum":{"bytes":1000,"bits_per_second":8000,"lost_percent":100}}}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := parseIperf(c.report, c.udp); err == nil {
				t.Errorf("accepted as %+v", got)
			}
		})
	}
}

func TestRepeated_SecondRunValid_ReturnsIt(t *testing.T) {
	runs := 0
	got, err := repeated(t.Context(), func() (transfer, error) {
		if runs++; runs < 2 {
			return transfer{}, errors.New("refused")
		}
		return transfer{1, 8}, nil
	})
	if err != nil || got != (transfer{1, 8}) || runs != 2 {
		t.Errorf("%+v %v after %d runs", got, err, runs)
	}
}

func TestRepeated_EveryRunFails_IsInvalid(t *testing.T) {
	runs := 0
	_, err := repeated(t.Context(), func() (transfer, error) { runs++; return transfer{}, errors.New("refused") })
	if !errors.Is(err, errInvalid) || !strings.Contains(err.Error(), "refused") || runs != iperfRuns {
		t.Errorf("%v after %d runs, expected errInvalid after %d", err, runs, iperfRuns)
	}
}

func TestRepeated_ContextEnded_DoesNotRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := repeated(ctx, func() (transfer, error) { t.Error("run was called"); return transfer{}, nil })
	if !errors.Is(err, context.Canceled) || errors.Is(err, errInvalid) {
		t.Errorf("%v, expected context.Canceled", err)
	}
}

func TestTable_Zero_IsInvalid(t *testing.T) {
	var out strings.Builder
	tab := newTable("reference")
	tab.out = &out
	for _, v := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		tab.add("rate", "reference", v)
	}
	tab.addShare("lost %", "reference", 0)
	tab.print()
	if got := out.String(); strings.Count(got, "invalid") != 1 || !strings.Contains(got, "0 (0-0)") {
		t.Errorf("%s", got)
	}
}

func TestTable_InvalidMeasurement_ShowsInvalidAndNeverZero(t *testing.T) {
	var out strings.Builder
	tab := newTable("reference")
	tab.out = &out
	tab.add("rate", "reference", 4)
	tab.invalid("rate", "warren")
	tab.add("partial", "reference", 4)
	tab.add("partial", "warren", 2)
	tab.invalid("partial", "warren")
	tab.invalid("none", "reference")
	tab.add("none", "warren", 2)
	tab.print()
	lines := strings.Split(out.String(), "\n")
	for i, want := range []string{"metric", "rate 4 (4-4) invalid -", "partial 4 (4-4) 2 (2-2), 1 invalid 0.50", "none invalid 2 (2-2) -"} {
		if got := strings.Join(strings.Fields(lines[i]), " "); !strings.HasPrefix(got, want) {
			t.Errorf("line %d: %q, expected %q", i, got, want)
		}
	}
}
