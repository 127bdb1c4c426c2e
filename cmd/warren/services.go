package main

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/api"
)

func envCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "env",
		Short: "print the service environment variables that Pods of a namespace get",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var e api.Env
			if err := callAgent(c, http.MethodGet, api.EnvPath+"?namespace="+namespace(c), nil, &e); err != nil {
				return err
			}
			for _, v := range e.Variables {
				fmt.Fprintln(c.OutOrStdout(), v)
			}
			if e.Warning != "" {
				fmt.Fprintln(c.ErrOrStderr(), "warning:", e.Warning)
			}
			return nil
		},
	}
	socketFlag(c)
	namespaceFlag(c)
	return c
}

func flowsCmd() *cobra.Command {
	var format, address string
	c := &cobra.Command{
		Use:   "flows",
		Short: "list the connections that this node translates",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []api.Flow
			if err := callAgent(c, http.MethodGet, api.FlowsPath, nil, &all); err != nil {
				return err
			}
			var list []api.Flow
			for _, f := range all {
				if address == "" || touches(f, address) {
					list = append(list, f)
				}
			}
			return printFlows(c, format, list)
		},
	}
	socketFlag(c)
	outputFlag(c, &format)
	c.Flags().StringVar(&address, "address", "", "only flows with this address at either end")
	return c
}

func touches(f api.Flow, address string) bool {
	for _, a := range []netip.AddrPort{f.Client, f.Service, f.Source, f.Backend} {
		if a.Addr().String() == address {
			return true
		}
	}
	return false
}

func printFlows(c *cobra.Command, format string, list []api.Flow) error {
	return render(c.OutOrStdout(), format, list, func(t io.Writer) {
		fmt.Fprintln(t, "KIND\tPROTO\tSTATE\tCLIENT\tSENT TO\tBACKEND\tSEEN AS\tAGE\tIDLE")
		for _, f := range list {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%ds\t%ds\n", f.Kind, f.Protocol, f.State, f.Client, f.Service, f.Backend, f.Source, f.Age, f.Idle)
		}
	})
}

func servicesCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "services [NAMESPACE/NAME]",
		Short: "show where this node serves Services, and the backends it uses",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var all, list []api.Frontend
			if err := callAgent(c, http.MethodGet, api.ServicesPath, nil, &all); err != nil {
				return err
			}
			for _, f := range all {
				if len(args) == 0 || f.Service == args[0] {
					list = append(list, f)
				}
			}
			if len(args) == 1 && len(list) == 0 {
				return fmt.Errorf("this node serves no Service %q (a headless or ExternalName one has no address; `warren get svc -A` lists all)", args[0])
			}
			return printFrontends(c, format, list)
		},
	}
	socketFlag(c)
	outputFlag(c, &format)
	return c
}

func printFrontends(c *cobra.Command, format string, list []api.Frontend) error {
	return render(c.OutOrStdout(), format, list, func(t io.Writer) {
		fmt.Fprintln(t, "SERVICE\tPORT\tKIND\tPROTO\tADDRESS\tBACKENDS\tFOR OUTSIDE CLIENTS")
		for _, f := range list {
			outside := "same"
			if f.External != nil {
				outside = words(f.External)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Service, dash(f.Port), f.Kind, f.Protocol, f.Address, words(f.Backends), outside)
		}
	})
}
