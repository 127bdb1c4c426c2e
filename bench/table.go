package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
)

// table gathers samples by metric and contestant and prints medians with their range, and the ratio to the reference.
// A measurement that failed is counted and shown as invalid.
type table struct {
	out       io.Writer
	reference string
	rows      map[string]map[string]cell
	order     []string
	names     []string
}

// cell holds the samples of one contestant for one metric.
type cell struct {
	samples []float64
	invalid int // measurements without a sample
}

func newTable(reference string) *table {
	return &table{out: os.Stdout, reference: reference, rows: map[string]map[string]cell{}}
}

// add adds a sample of something that is above zero in every run that worked: a rate, a time, a size. Any other value
// is an invalid measurement.
func (t *table) add(metric, name string, v float64) {
	if v <= 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		t.invalid(metric, name)
		return
	}
	t.addShare(metric, name, v)
}

// addShare adds a sample that may be zero.
func (t *table) addShare(metric, name string, v float64) {
	c := t.cell(metric, name)
	c.samples = append(c.samples, v)
	t.rows[metric][name] = c
}

// addRate adds the rate of a transfer that was measured with repeated. An invalid measurement is shown as such and
// reported to standard error; the benchmark continues. Any other error is returned.
func (t *table) addRate(metric, name string, got transfer, err error) error {
	switch {
	case err == nil:
		t.add(metric, name, got.bitsPerSecond/1e9)
	case errors.Is(err, errInvalid):
		fmt.Fprintf(os.Stderr, "bench: %s of %s: %v\n", metric, name, err)
		t.invalid(metric, name)
	default:
		return err
	}
	return nil
}

// invalid counts a measurement that failed.
func (t *table) invalid(metric, name string) {
	c := t.cell(metric, name)
	c.invalid++
	t.rows[metric][name] = c
}

func (t *table) cell(metric, name string) cell {
	if t.rows[metric] == nil {
		t.rows[metric] = map[string]cell{}
		t.order = append(t.order, metric)
	}
	if !slices.Contains(t.names, name) {
		t.names = append(t.names, name)
	}
	return t.rows[metric][name]
}

func (t *table) print() {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	head := []string{"metric"}
	for _, n := range t.names {
		head = append(head, n)
		if n != t.reference {
			head = append(head, n+" / "+t.reference)
		}
	}
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, m := range t.order {
		line := []string{m}
		ref := median(t.rows[m][t.reference].samples)
		for _, n := range t.names {
			v := t.rows[m][n]
			line = append(line, v.String())
			if n == t.reference {
				continue
			}
			if ref == 0 || len(v.samples) == 0 {
				line = append(line, "-")
			} else {
				line = append(line, fmt.Sprintf("%.2f", median(v.samples)/ref))
			}
		}
		fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	w.Flush()
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Clone(v)
	sort.Float64s(s)
	return s[len(s)/2]
}

// String is the median of the samples and their range, with the number of invalid measurements.
func (c cell) String() string {
	switch {
	case len(c.samples) == 0 && c.invalid > 0:
		return "invalid"
	case len(c.samples) == 0:
		return "-"
	}
	s := fmt.Sprintf("%.4g (%.4g-%.4g)", median(c.samples), slices.Min(c.samples), slices.Max(c.samples))
	if c.invalid > 0 {
		s += fmt.Sprintf(", %d invalid", c.invalid)
	}
	return s
}
