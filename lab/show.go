package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/text"
)

// Log opens the log of a node's agent or of an etcd member.
func (l *Lab) Log(machine string) (*os.File, error) {
	name := "agent.log"
	if strings.HasPrefix(machine, "etcd") {
		name = "etcd.log"
	}
	if err := l.checkMachine(machine); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(l.machineDir(machine), name))
	if err != nil {
		return nil, fmt.Errorf("lab %s has no log of %q", l.Name, machine)
	}
	return f, nil
}

// Summary prints every node and Pod, problems first.
func (l *Lab) Summary(ctx context.Context, w io.Writer, format string) error {
	all := map[string]api.Status{}
	for _, n := range l.NodeNames() {
		st, err := l.Status(ctx, n)
		if err != nil {
			st.Problems = append(st.Problems, err.Error())
		}
		all[n] = st
	}
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	case "text":
	default:
		return fmt.Errorf("--output %q is neither text nor json", format)
	}
	for _, n := range l.NodeNames() {
		for _, p := range all[n].Problems {
			fmt.Fprintf(w, "PROBLEM  %s: %s\n", n, p)
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tREADY\tADDRESS\tPOD CIDR\tPODS\tMTU\tPEERS")
	for _, n := range l.NodeNames() {
		st := all[n]
		fmt.Fprintf(t, "%s\t%v\t%s\t%s\t%d\t%d\t%s\n", n, st.Ready, text.Join(addrsOf(l.Spec.underlayAddrs(n)), " "),
			text.Join(st.PodCIDRs, " "), st.Pods, st.MTU, handshakes(st))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return l.PrintPods(w)
}

func addrsOf(list []netip.Prefix) (out []netip.Addr) {
	for _, p := range list {
		out = append(out, p.Addr())
	}
	return out
}

// handshakes is the number of peers with a handshake and of all peers.
func handshakes(st api.Status) string {
	n := 0
	for _, p := range st.Peers {
		if !p.LastHandshake.IsZero() {
			n++
		}
	}
	return fmt.Sprintf("%d (%d with a handshake)", len(st.Peers), n)
}

// PrintPods lists the lab's Pods.
func (l *Lab) PrintPods(w io.Writer) error {
	pods, err := l.LabPods()
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tNODE\tADDRESSES\tPID")
	for _, p := range pods {
		fmt.Fprintf(t, "%s/%s\t%s\t%s\t%d\n", p.Namespace, p.Name, p.Node, text.Join(p.Addresses, " "), p.PID)
	}
	return t.Flush()
}
