package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/api"
)

func podProbeCmd() *cobra.Command {
	var interval time.Duration
	var failures int
	c := &cobra.Command{
		Use:   "probe NAMESPACE/NAME tcp:PORT|http:PORT/PATH|none",
		Short: "set the readiness probe of a Pod of this node, in clusters without Kubernetes",
		Long: "Set the readiness probe of a Pod of this node: a TCP connection, or an HTTP GET that must return a status from 200 to " +
			"399.\n\n" +
			"A Pod that fails so many times in a row leaves its Services; one success brings it back. A Pod without a probe is ready.",
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			q := api.PodProbe{Pod: inNamespace(args[0])}
			if args[1] != "none" {
				p, err := parseProbe(args[1])
				if err != nil {
					return err
				}
				p.IntervalMillis, p.Failures = int(interval.Milliseconds()), failures
				q.Probe = &p
			}
			var p api.Pod
			if err := callAgent(c, http.MethodPost, api.PodProbePath, q, &p); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "pod %s probe: %s\n", podNameOf(p), args[1])
			return nil
		},
	}
	c.Flags().DurationVar(&interval, "interval", time.Second, "time between two attempts; an attempt may take 80 % of it")
	c.Flags().IntVar(&failures, "failures", 3, "failed attempts in a row that make the Pod not ready")
	return c
}

// parseProbe reads tcp:PORT and http:PORT/PATH; the agent checks the rest.
func parseProbe(s string) (p api.Probe, err error) {
	kind, rest, ok := strings.Cut(s, ":")
	port, path, hasPath := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(port, 10, 16)
	if !ok || err != nil || kind != "tcp" && kind != "http" || kind == "tcp" && hasPath {
		return p, fmt.Errorf("probe %q: expected tcp:PORT, http:PORT/PATH or none", s)
	}
	p = api.Probe{Kind: kind, Port: uint16(n)}
	if kind == "http" {
		p.Path = "/" + path
	}
	return p, nil
}

// probeText is a probe in the form of the command line, and the last error of the Pod.
func probeText(p api.Pod) string {
	if p.Probe == nil {
		return ""
	}
	text := fmt.Sprintf("%s:%d%s every %v", p.Probe.Kind, p.Probe.Port, p.Probe.Path,
		time.Duration(p.Probe.IntervalMillis)*time.Millisecond)
	if p.ProbeError != "" {
		text += " (" + p.ProbeError + ")"
	}
	return text
}
