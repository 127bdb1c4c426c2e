package main

import (
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
)

// table gathers samples by metric and contestant and prints medians with their range, and the ratio to the reference.
type table struct {
	reference string
	rows      map[string]map[string][]float64
	order     []string
	names     []string
}

func newTable(reference string) *table {
	return &table{reference: reference, rows: map[string]map[string][]float64{}}
}

func (t *table) add(metric, name string, v float64) {
	if t.rows[metric] == nil {
		t.rows[metric] = map[string][]float64{}
		t.order = append(t.order, metric)
	}
	if !slices.Contains(t.names, name) {
		t.names = append(t.names, name)
	}
	t.rows[metric][name] = append(t.rows[metric][name], v)
}

func (t *table) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
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
		ref := median(t.rows[m][t.reference])
		for _, n := range t.names {
			v := t.rows[m][n]
			line = append(line, spread(v))
			if n == t.reference {
				continue
			}
			if ref == 0 || len(v) == 0 {
				line = append(line, "-")
			} else {
				line = append(line, fmt.Sprintf("%.2f", median(v)/ref))
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

func spread(v []float64) string {
	if len(v) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.4g (%.4g-%.4g)", median(v), slices.Min(v), slices.Max(v))
}
