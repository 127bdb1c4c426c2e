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
		Short: "do the cluster-wide work on Kubernetes: certificates, the agents' settings, cluster DNS's Service, addresses",
		Long: "Do what only one program may do on Kubernetes: make the certificates for etcd and the agents' settings, keep them current,\n" +
			"write cluster DNS's Service and EndpointSlices, and give Services of type LoadBalancer addresses of AddressPools.\n" +
			"Several may run; one leads.",
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
