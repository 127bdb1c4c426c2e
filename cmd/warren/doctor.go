package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/agent"
	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/doctor"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/version"
)

func doctorCmd() *cobra.Command {
	var format, plugins, conflists string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "find faults that keep this node's network from working",
		Long: "Find faults that keep this node's network from working although the agent runs: rules of a kube-proxy, the\n" +
			"configuration of another network, plugins in another directory, a kubelet with another DNS server, ranges that overlap,\n" +
			"a blocked UDP port between nodes, a path MTU below the configured MTU. It changes nothing and sends a few echo requests\n" +
			"through the tunnel. The exit status is 1 if there is a problem.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n := doctor.Node{Root: "/", ConflistAt: conflists, Plugins: plugins, Conflist: agent.ConflistName, Version: version.Version,
				Ping: doctor.Ping, Overlaps: hostnet.Overlaps, Chains: chains}
			var st api.Status
			if n.StatusErr = callAgent(c, http.MethodGet, api.StatusPath, nil, &st); n.StatusErr == nil {
				n.Status, n.DNS, n.Ranges = &st, st.DNS, append(st.PodRanges, st.ServiceCIDRs...)
			}
			found := doctor.Examine(c.Context(), n)
			if err := render(c.OutOrStdout(), format, found, func(w io.Writer) { doctorText(w, found) }); err != nil {
				return err
			}
			if doctor.Worst(found) == doctor.Problem {
				return errors.New("there are problems")
			}
			return nil
		},
	}
	socketFlag(c)
	outputFlag(c, &format)
	c.Flags().StringVar(&plugins, "plugins", "/opt/cni/bin", "directory where the runtime looks for CNI plugins")
	c.Flags().StringVar(&conflists, "conflists", config.Default().CNIConfDir, "directory where the runtime looks for CNI configurations")
	return c
}

func chains() ([]doctor.Chain, error) {
	have, err := hostnet.Chains()
	var out []doctor.Chain
	for _, x := range have {
		out = append(out, doctor.Chain(x))
	}
	return out, err
}

func doctorText(w io.Writer, found []doctor.Finding) {
	for _, f := range found {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Level, f.Check, f.Text)
		if f.Do != "" {
			fmt.Fprintf(w, "\t\t-> %s\n", f.Do)
		}
	}
}
