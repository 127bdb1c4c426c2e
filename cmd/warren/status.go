package main

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/text"
)

func statusCmd() *cobra.Command {
	var format string
	var ready bool
	c := &cobra.Command{
		Use:   "status",
		Short: "show this node, its peers and its problems",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if ready {
				return callAgent(c, http.MethodGet, api.ReadyPath, nil, &struct{}{})
			}
			var st api.Status
			if err := callAgent(c, http.MethodGet, api.StatusPath, nil, &st); err != nil {
				return err
			}
			return printStatus(c.OutOrStdout(), format, st)
		},
	}
	socketFlag(c)
	outputFlag(c, &format)
	c.Flags().BoolVar(&ready, "ready", false, "print nothing; fail with the reason while no Pod can be attached")
	return c
}

func printStatus(w io.Writer, format string, st api.Status) error {
	return render(w, format, st, func(t io.Writer) { statusText(t, st) })
}

func statusText(w io.Writer, st api.Status) {
	for _, p := range st.Problems {
		fmt.Fprintf(w, "PROBLEM  %s\n", p)
	}
	state := "not ready"
	if st.Ready {
		state = "ready"
	}
	fmt.Fprintf(w, "node     %s, %s, %s, warren %s\n", st.Node, state, podCount(st.Pods), st.Version)
	fmt.Fprintf(w, "cluster  %s, revision %d, applied %d; store %s\n", st.Cluster, st.Revision, st.Applied, storeText(st.Store))
	if st.Kubernetes != nil {
		fmt.Fprintf(w, "API      %s\n", storeText(*st.Kubernetes))
	}
	fmt.Fprintf(w, "tunnel   %s, MTU %d, UDP %d, key %s\n", st.Interface, st.MTU, st.Port, st.PublicKey)
	if st.Offload != "active" {
		fmt.Fprintf(w, "offload  inactive: %s\n", st.Offload)
	}
	fmt.Fprintf(w, "Pods     %s\n\n", dash(text.Join(st.PodCIDRs, " ")))
	fmt.Fprintln(w, "PEER\tALIVE\tENDPOINT\tPOD CIDR\tHANDSHAKE\tRECEIVED\tSENT\tMTU")
	for _, p := range st.Peers {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, aliveText(p), dash(p.Endpoint), dash(text.Join(p.PodCIDRs, " ")),
			ago(p.LastHandshake),
			bytesText(p.RxBytes), bytesText(p.TxBytes), mtuText(p))
	}
}

func podCount(n int) string {
	if n == 1 {
		return "1 Pod"
	}
	return fmt.Sprintf("%d Pods", n)
}

// mtuText is the largest packet that is sent to a peer. It is marked if the path MTU limits it.
func mtuText(p api.Peer) string {
	if p.PathMTU != 0 {
		return fmt.Sprintf("%d (path)", p.PathMTU)
	}
	return fmt.Sprint(p.MTU)
}

func storeText(s api.Store) string {
	switch {
	case s.Connected:
		return "connected for " + time.Since(s.Since).Truncate(time.Second).String()
	case s.Since.IsZero():
		return "never connected"
	}
	return "unreachable for " + time.Since(s.Since).Truncate(time.Second).String()
}

func aliveText(p api.Peer) string {
	switch {
	case p.External:
		return "external"
	case p.Alive:
		return "yes"
	}
	return "no"
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Truncate(time.Second).String() + " ago"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func bytesText(n uint64) string {
	for _, u := range []struct {
		name string
		size uint64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}
