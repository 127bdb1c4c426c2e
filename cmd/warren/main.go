// Command warren is the whole of warren in one binary: the node's agent, its etcd, the lab, and the commands that look
// at them. One file per verb; the work is in the packages.
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
		Short:         "the network of a small cluster in one program, encrypted, in userspace",
		Version:       versionText(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.SetVersionTemplate("{{.Version}}\n")
	c.AddCommand(agentCmd(), etcdCmd(), statusCmd(), doctorCmd(), nodeCmd(), peerCmd(), podCmd(), uninstallCmd(), versionCmd(), labCmd(),
		applyCmd(), getCmd(), describeCmd(), deleteCmd(), dnsCmd(), envCmd(), servicesCmd(), endpointsCmd(), flowsCmd(), lbCmd(), installCNICmd(), controllerCmd(), pkiCmd())
	return c
}
