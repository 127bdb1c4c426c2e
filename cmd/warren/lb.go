package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/api"
)

func lbCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "lb",
		Short: "show load balancer addresses: pools, announcing nodes as seen by this node, and why a Service waits",
		Long: "Show the AddressPools, the load balancer addresses of Services, and the node that announces each\n" +
			"address as seen by this node.\n\n" +
			"EPOCH rises each time another node starts to announce the address.\n" +
			"THIS NODE is what this node does for the address:\n" +
			"  announcing  it answers ARP and neighbour solicitations for the address\n" +
			"  probing     it checks that no other machine has the address before it announces it\n" +
			"  waiting     a probe found a conflict; it probes again later\n" +
			"  idle        another node announces the address, or this node is no candidate",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var lb api.LB
			if err := callAgent(c, http.MethodGet, api.LBPath, nil, &lb); err != nil {
				return err
			}
			return render(c.OutOrStdout(), format, lb, func(t io.Writer) { printLB(t, lb) })
		},
	}
	socketFlag(c)
	outputFlag(c, &format)
	return c
}

func printLB(t io.Writer, lb api.LB) {
	for _, p := range lb.Problems {
		fmt.Fprintf(t, "problem: %s\n", p)
	}
	fmt.Fprintln(t, "POOL\tADDRESSES\tAUTO-ASSIGN\tNAMESPACES\tPRIORITY\tUSED\tFREE")
	for _, p := range lb.Pools {
		fmt.Fprintf(t, "%s\t%s\t%v\t%s\t%d\t%d\t%d\n", p.Name, strings.Join(p.Addresses, ","), p.AutoAssign,
			dash(strings.Join(p.Namespaces, ",")), p.Priority, p.Used, p.Free)
	}
	fmt.Fprintln(t, "\nSERVICE\tADDRESS\tPOOL\tANNOUNCED BY\tEPOCH\tTHIS NODE\tNOTE")
	addresses := 0
	for _, s := range lb.Services {
		addresses += len(s.Addresses)
		for _, a := range s.Addresses {
			pool := a.Pool
			if pool == "" {
				pool = "(gone)"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", s.Service, a.Address, pool, dash(a.Announcer), a.Epoch, a.State, dash(a.Note))
		}
		for _, why := range s.Pending {
			fmt.Fprintf(t, "%s\tpending\t-\t-\t-\t-\t%s\n", s.Service, why)
		}
	}
	var silent []string
	for _, n := range lb.Nodes {
		if !n.Healthy {
			silent = append(silent, n.Name)
		}
	}
	if len(silent) > 0 && addresses > 0 {
		fmt.Fprintf(t, "\nno heartbeats from %s\n", strings.Join(silent, ", "))
	}
}
