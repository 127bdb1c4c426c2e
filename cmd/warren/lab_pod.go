package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/text"
	"github.com/warrennet/warren/lab"
)

func labPodCmd() *cobra.Command {
	c := &cobra.Command{Use: "pod", Short: "Pods of the lab"}
	c.AddCommand(labPodRunCmd(), labPodRmCmd(), labPodExecCmd(), labPodListCmd())
	return c
}

func labPodRunCmd() *cobra.Command {
	spec := lab.PodSpec{}
	var labels, ips, ports []string
	c := &cobra.Command{
		Use:   "run NODE NAME [-- COMMAND [ARG...]]",
		Short: "run a Pod; without a command it is an echo server on TCP 7, UDP 7 and HTTP 80",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openLab(c)
			if err != nil {
				return err
			}
			spec.Node, spec.Name, spec.Args, spec.Labels = args[0], args[1], args[2:], map[string]string{}
			for _, kv := range labels {
				k, v, ok := strings.Cut(kv, "=")
				if !ok || k == "" {
					return fmt.Errorf("--label %q: expected KEY=VALUE", kv)
				}
				spec.Labels[k] = v
			}
			for _, s := range ips {
				a, err := netip.ParseAddr(s)
				if err != nil {
					return fmt.Errorf("--ip %q is not an address", s)
				}
				spec.IPs = append(spec.IPs, a)
			}
			for _, s := range ports {
				m, err := portMapping(s)
				if err != nil {
					return err
				}
				spec.Ports = append(spec.Ports, m)
			}
			p, err := l.RunPod(c.Context(), spec)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "Pod %s on %s: %s\n", p.Name, p.Node, dash(text.Join(p.Addresses, " ")))
			return nil
		},
	}
	c.Flags().StringVar(&spec.Namespace, "namespace", "default", "namespace of the Pod")
	c.Flags().StringSliceVar(&labels, "label", nil, "label of the Pod, KEY=VALUE")
	c.Flags().StringSliceVar(&ips, "ip", nil, "address to request")
	c.Flags().StringSliceVar(&ports, "host-port", nil, "host port of the Pod: HOSTPORT:PORT[/udp]")
	c.Flags().StringVar(&spec.MAC, "mac", "", "MAC address to request")
	return c
}

// portMapping reads HOSTPORT:PORT[/PROTOCOL].
func portMapping(s string) (m lab.PortMapping, err error) {
	ports, proto, _ := strings.Cut(s, "/")
	if m.Protocol = proto; proto == "" {
		m.Protocol = "tcp"
	}
	if n, err := fmt.Sscanf(ports, "%d:%d", &m.HostPort, &m.ContainerPort); n != 2 || err != nil {
		return m, fmt.Errorf("--host-port %q: expected HOSTPORT:PORT[/udp]", s)
	}
	return m, nil
}

func labPodRmCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "rm [NAMESPACE/]NAME",
		Short: "stop and remove a Pod",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withPod(c, args[0], func(l *lab.Lab, p *lab.Pod) error { return l.RemovePod(p) })
		},
	}
}

func labPodExecCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "exec [NAMESPACE/]NAME -- COMMAND [ARG...]",
		Short: "run a command in a Pod",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return withPod(c, args[0], func(l *lab.Lab, p *lab.Pod) error { return l.ExecPod(p, stdio(args[1:])) })
		},
	}
}

// withPod opens the lab and finds a Pod of it.
func withPod(c *cobra.Command, name string, do func(*lab.Lab, *lab.Pod) error) error {
	l, err := openLab(c)
	if err != nil {
		return err
	}
	p, err := l.FindPod(name)
	if err != nil {
		return err
	}
	return do(l, p)
}

func labPodListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the lab's Pods",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := openLab(c)
			if err != nil {
				return err
			}
			return l.PrintPods(c.OutOrStdout())
		},
	}
}
