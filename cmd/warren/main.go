// Command warren is all programs of warren in one binary: the agent of a node, etcd, the controller, the lab, and the commands
// that show their state. It has one file per verb, which parses flags and calls packages.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		if code, ok := exitCode(err); ok {
			os.Exit(code)
		}
		fmt.Fprintln(os.Stderr, "warren:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "warren",
		Short:         "encrypted userspace network for small clusters: CNI plugin, service proxy, DNS and IPAM",
		Version:       versionText(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.SetVersionTemplate("{{.Version}}\n")
	c.AddCommand(agentCmd(), etcdCmd(), statusCmd(), doctorCmd(), nodeCmd(), keyCmd(), peerCmd(), podCmd(), uninstallCmd(),
		versionCmd(), labCmd(),
		applyCmd(), getCmd(), describeCmd(), deleteCmd(), dnsCmd(), envCmd(), servicesCmd(), endpointsCmd(), flowsCmd(), lbCmd(),
		installCNICmd(), controllerCmd(), ingressCmd(), pkiCmd())
	return c
}
