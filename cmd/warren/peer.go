package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/text"
)

func peerCmd() *cobra.Command {
	c := &cobra.Command{Use: "peer", Short: "external peers: WireGuard peers of this node that are not nodes of the cluster"}
	c.AddCommand(peerAddCmd(), peerRmCmd(), peerListCmd())
	for _, sub := range c.Commands() {
		socketFlag(sub)
	}
	return c
}

func peerAddCmd() *cobra.Command {
	var allowed, endpoints []string
	var keepalive int
	c := &cobra.Command{
		Use:   "add NAME PUBLIC-KEY --allowed-ips CIDR[,CIDR...]",
		Short: "add an external peer, which can reach this node and its Pods",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			p := api.ExternalPeer{Name: args[0], PublicKey: args[1], Keepalive: keepalive}
			for _, s := range allowed {
				x, err := netip.ParsePrefix(s)
				if err != nil {
					return fmt.Errorf("--allowed-ips: %q is not a CIDR", s)
				}
				p.AllowedIPs = append(p.AllowedIPs, x)
			}
			for _, s := range endpoints {
				x, err := netip.ParseAddrPort(s)
				if err != nil {
					return fmt.Errorf("--endpoint: %q is not an address:port", s)
				}
				p.Endpoints = append(p.Endpoints, x)
			}
			if err := callAgent(c, http.MethodPost, api.PeersPath, p, nil); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "external peer %s added\n", p.Name)
			return nil
		},
	}
	c.Flags().StringSliceVar(&allowed, "allowed-ips", nil, "source addresses to accept from the peer, and destinations to send to it")
	c.Flags().StringSliceVar(&endpoints, "endpoint", nil, "address:port of the peer (default: the peer initiates)")
	c.Flags().IntVar(&keepalive, "keepalive", 0, "seconds between keepalives, 0 for none")
	return c
}

func peerRmCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "rm PUBLIC-KEY",
		Short: "remove an external peer",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := callAgent(c, http.MethodDelete, api.PeersPath+"?publicKey="+url.QueryEscape(args[0]), nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "external peer %s removed\n", args[0])
			return nil
		},
	}
}

func peerListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list external peers",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var peers []api.ExternalPeer
			if err := callAgent(c, http.MethodGet, api.PeersPath, nil, &peers); err != nil {
				return err
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tPUBLIC KEY\tALLOWED IPS\tENDPOINTS")
			for _, p := range peers {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.Name, p.PublicKey, dash(text.Join(p.AllowedIPs, " ")),
					dash(text.Join(p.Endpoints, " ")))
			}
			return t.Flush()
		},
	}
}
