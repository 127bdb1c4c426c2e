package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// iperfRuns is how often a measurement with iperf3 is started until one of its runs is valid.
const iperfRuns = 3

// errInvalid is why no value exists for a measurement: each of its runs failed or transferred nothing. The table shows
// "invalid" for it, never 0.
var errInvalid = errors.New("no valid run")

// transfer is what arrived at the receiver in one run of iperf3.
type transfer struct {
	bytes, bitsPerSecond float64
}

// parseIperf reads the report of `iperf3 -J`. It returns an error for a run that failed, that was cut short before its
// report was complete, or in which nothing arrived: iperf3 exits with 0 for some of these.
func parseIperf(report string, udp bool) (transfer, error) {
	type sum struct {
		Bytes         float64 `json:"bytes"`
		BitsPerSecond float64 `json:"bits_per_second"`
		LostPercent   float64 `json:"lost_percent"`
	}
	var r struct {
		Error string `json:"error"`
		End   struct {
			SumReceived *sum `json:"sum_received"`
			Sum         *sum `json:"sum"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(report), &r); err != nil {
		return transfer{}, fmt.Errorf("parse the report of iperf3 %q: %w", report, err)
	}
	if r.Error != "" {
		return transfer{}, fmt.Errorf("iperf3: %s", r.Error)
	}
	total, arrived := r.End.SumReceived, 1.0
	if udp && r.End.Sum != nil {
		total, arrived = r.End.Sum, 1-r.End.Sum.LostPercent/100
	}
	if total == nil {
		return transfer{}, errors.New("the report of iperf3 has no sum of what was received")
	}
	out := transfer{total.Bytes * arrived, total.BitsPerSecond * arrived}
	if out.bytes <= 0 || out.bitsPerSecond <= 0 {
		return transfer{}, errors.New("iperf3 transferred nothing")
	}
	return out, nil
}

// repeated starts a measurement until it succeeds, at most iperfRuns times. Its error wraps errInvalid and every
// run's error. When ctx ends it returns the context's error.
func repeated(ctx context.Context, run func() (transfer, error)) (transfer, error) {
	errs := []error{errInvalid}
	for range iperfRuns {
		if err := ctx.Err(); err != nil {
			return transfer{}, err
		}
		x, err := run()
		if err == nil {
			return x, nil
		}
		errs = append(errs, err)
	}
	return transfer{}, errors.Join(errs...)
}
