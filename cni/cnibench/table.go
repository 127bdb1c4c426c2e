package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// key names a row of the table.
type key struct {
	peer, op  string
	have, par int
}

type table map[key]result

func (t table) add(k key, r result) {
	sum := t[k]
	sum.ms = append(sum.ms, r.ms...)
	sum.wall += r.wall
	sum.cpu += r.cpu
	t[k] = sum
}

// print writes one row per measurement and then the ratios to the reference.
func (t table) print(w io.Writer, peers []peer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "plugin\tcall\tPods before\tat once\tp50 ms\tp99 ms\tmax ms\tper s\tcpu ms\t")
	keys := slices.SortedFunc(maps.Keys(t), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.op, b.op), cmp.Compare(a.par, b.par), cmp.Compare(a.have, b.have), -cmp.Compare(a.peer, b.peer))
	})
	for _, k := range keys {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%.2f\t%.2f\t%.2f\t%.0f\t%.2f\t\n", k.peer, k.op, k.have, k.par,
			t.quantile(k, .5), t.quantile(k, .99), t.quantile(k, 1), t.rate(k), t.cpu(k))
	}
	tw.Flush()
	if len(peers) > 1 {
		t.ratios(w, keys, peers[1].name)
	}
}

// ratios compares warren with the reference plugin, and warren at many Pods with warren at none.
func (t table) ratios(w io.Writer, keys []key, ref string) {
	fmt.Fprintln(w)
	for _, k := range keys {
		if k.peer != "warren" {
			continue
		}
		other := k
		other.peer = ref
		if k.par == 1 {
			fmt.Fprintf(w, "%s p50 at %d Pods: %.2f x %s (CPU time %.2f x)\n", k.op, k.have,
				t.quantile(k, .5)/t.quantile(other, .5), ref, t.cpu(k)/t.cpu(other))
		} else {
			fmt.Fprintf(w, "%s per second, %d at once, at %d Pods: %.1f x %s\n", k.op, k.par, k.have, t.rate(k)/t.rate(other), ref)
		}
		if empty := (key{k.peer, k.op, 0, k.par}); k.have > 0 && k.par == 1 {
			fmt.Fprintf(w, "%s p50 at %d Pods: %.2f x p50 at 0 Pods\n", k.op, k.have, t.quantile(k, .5)/t.quantile(empty, .5))
		}
	}
}

func (t table) quantile(k key, q float64) float64 {
	ms := slices.Sorted(slices.Values(t[k].ms))
	return ms[int(q*float64(len(ms)-1)+.5)]
}

func (t table) rate(k key) float64 { return float64(len(t[k].ms)) / t[k].wall.Seconds() }
func (t table) cpu(k key) float64  { return t[k].cpu.Seconds() * 1e3 / float64(len(t[k].ms)) }
