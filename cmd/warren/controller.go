package main

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/controller"
)

func controllerCmd() *cobra.Command {
	var api apiFlags
	var level string
	c := &cobra.Command{
		Use:   "controller",
		Short: "run the controller on Kubernetes: certificates, agents' settings, the Service of cluster DNS, load balancer addresses",
		Long: "Run the controller, one leader per cluster: it makes the certificates of etcd and the agents' settings, keeps them\n" +
			"current, writes the Service and EndpointSlices of cluster DNS, and assigns addresses of AddressPools to Services of\n" +
			"type LoadBalancer. Several replicas may run; one is the leader.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conn, err := api.connect("warren-controller")
			if err != nil {
				return err
			}
			host, _ := os.Hostname()
			return api.with(c.Context(), conn, func(ctx context.Context) error {
				return controller.Run(ctx, controller.Config{
					Client: conn.Client, Dynamic: conn.Dynamic, Namespace: api.namespace, Log: logger(level),
					Identity: fmt.Sprintf("%s-%s-%d", cmp.Or(api.node, host), envOr("WARREN_POD_NAME", "process"), os.Getpid()),
				})
			})
		},
	}
	api.add(c)
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}
