package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/text"
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

func servicesCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "services [NAMESPACE/NAME]",
		Short: "show the addresses at which this node serves Services, and their backends",
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
				return fmt.Errorf(
					"this node serves no Service %q (a headless or ExternalName one has no address; `warren get svc -A` lists all)",
					args[0])
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
		fmt.Fprintln(t, "SERVICE\tPORT\tKIND\tPROTO\tADDRESS\tBACKENDS\tBACKENDS FOR EXTERNAL CLIENTS")
		for _, f := range list {
			if f.Refused != "" {
				fmt.Fprintf(t, "%s\t-\t%s\t%s\t%s\tREFUSED: %s\t\n", f.Service, f.Kind, dash(f.Protocol), f.Requested, f.Refused)
				continue
			}
			outside := "same"
			if f.External != nil {
				outside = dash(text.Join(f.External, " "))
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Service, dash(f.Port), f.Kind, f.Protocol, f.Address,
				dash(text.Join(f.Backends, " ")), outside)
		}
	})
}

func endpointsCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "endpoints [NAMESPACE/NAME]",
		Short: "show the endpoints of Services on this node, also those that are not ready",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var all, list []api.Endpoint
			if err := callAgent(c, http.MethodGet, api.EndpointsPath, nil, &all); err != nil {
				return err
			}
			for _, e := range all {
				if len(args) == 0 || e.Service == args[0] {
					list = append(list, e)
				}
			}
			if len(args) == 1 && len(list) == 0 {
				return fmt.Errorf("no endpoint of a Service %q exists on this node (expected NAMESPACE/NAME)", args[0])
			}
			return render(c.OutOrStdout(), format, list, func(t io.Writer) {
				fmt.Fprintln(t, "SERVICE\tADDRESS\tPORTS\tCONDITION\tNODE\tZONE\tPOD\tFOR ZONES\tFOR NODES")
				for _, e := range list {
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Service, e.Address, strings.Join(e.Ports, ", "),
						endpointCondition(e), dash(e.Node), dash(e.Zone),
						dash(e.Pod), dash(strings.Join(e.ZoneHints, ",")), dash(strings.Join(e.NodeHints, ",")))
				}
			})
		},
	}
	socketFlag(c)
	outputFlag(c, &format)
	return c
}

// endpointCondition is the condition of an endpoint, with the ports that this node ejected and for how long.
func endpointCondition(e api.Endpoint) string {
	out := e.Condition
	for _, x := range e.Ejected {
		if x.Seconds > 0 {
			out += fmt.Sprintf(", %s ejected for %ds", x.Port, x.Seconds)
		} else {
			out += fmt.Sprintf(", %s ejected until a connection succeeds", x.Port)
		}
	}
	return out
}
