package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/lab"
	"github.com/warrennet/warren/lab/echo"
)

// upTimeout bounds how long a lab may take to become ready.
const upTimeout = 2 * time.Minute

func labCmd() *cobra.Command {
	c := &cobra.Command{Use: "lab", Short: "a whole cluster on this machine, in network namespaces"}
	c.PersistentFlags().String("name", "default", "name of the lab; several can run at the same time")
	c.PersistentFlags().String("root", lab.DefaultRoot, "directory of the labs")
	c.AddCommand(labUpCmd(), labDownCmd(), labStatusCmd(), labExecCmd(), labPodCmd(), labDemoCmd(),
		labTwo("cut", "cut the link between two machines (nodes or etcd members)", (*lab.Lab).Cut), labHealCmd(), labRestartCmd(),
		labLogsCmd(), labListCmd())
	c.AddCommand(labHoldCmd(), labPlugCmd(), labPodInitCmd(), labEchoCmd(), labGetCmd())
	return c
}

func labOptions(c *cobra.Command) lab.Options {
	name, _ := c.Flags().GetString("name") // declared on the parent
	root, _ := c.Flags().GetString("root")
	out := c.OutOrStdout()
	return lab.Options{Name: name, Root: root, Out: func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }}
}

func openLab(c *cobra.Command) (*lab.Lab, error) { return lab.Open(labOptions(c)) }

func labUpCmd() *cobra.Command {
	var spec lab.Spec
	var file string
	var v6, dual bool
	c := &cobra.Command{
		Use:   "up",
		Short: "start a lab: etcd and nodes, and wait until Pods can be attached",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if spec.Nodes < 1 {
				return fmt.Errorf("--nodes %d: expected at least 1", spec.Nodes)
			}
			if file != "" {
				fromFile, err := lab.ReadSpec(file)
				if err != nil {
					return err
				}
				if c.Flags().Changed("nodes") {
					fromFile.Nodes = spec.Nodes
				}
				spec = fromFile
			}
			if v6 {
				spec.Family = lab.IPv6
			}
			if dual {
				spec.Family = lab.Dual
			}
			ctx, cancel := context.WithTimeout(c.Context(), upTimeout)
			defer cancel()
			start := time.Now()
			l, err := lab.Up(ctx, labOptions(c), spec)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "lab %s is up after %s\n", l.Name, time.Since(start).Truncate(100*time.Millisecond))
			return nil
		},
	}
	c.Flags().IntVar(&spec.Nodes, "nodes", 3, "number of nodes")
	c.Flags().BoolVar(&v6, "ipv6", false, "IPv6 only, Pods and underlay")
	c.Flags().BoolVar(&dual, "dual-stack", false, "IPv4 and IPv6, Pods and underlay")
	c.Flags().StringVarP(&file, "file", "f", "", "description of the lab (lab.yaml)")
	c.MarkFlagsMutuallyExclusive("ipv6", "dual-stack")
	return c
}

func labDownCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "remove a lab, also after a crash",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return lab.Remove(labOptions(c)) },
	}
}

func labListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the labs of this machine",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			names, err := lab.List(labOptions(c).Root)
			for _, n := range names {
				fmt.Fprintln(c.OutOrStdout(), n)
			}
			return err
		},
	}
}

func labStatusCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "status [NODE]",
		Short: "show the lab's nodes and Pods, or one node as `warren status` does there",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openLab(c)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				st, err := l.Status(c.Context(), args[0])
				if err != nil {
					return err
				}
				return printStatus(c.OutOrStdout(), format, st)
			}
			return l.Summary(c.Context(), c.OutOrStdout(), format)
		},
	}
	outputFlag(c, &format)
	return c
}

func labExecCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "exec NODE -- COMMAND [ARG...]",
		Short: "run a command on a node",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openLab(c)
			if err != nil {
				return err
			}
			return l.Exec(args[0], stdio(args[1:]))
		},
	}
}

func stdio(args []string) lab.Cmd {
	return lab.Cmd{Args: args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
}

// exitCode returns the exit status of a command that was run for the user. It becomes the exit status of this program.
func exitCode(err error) (int, bool) {
	var e *exec.ExitError
	if errors.As(err, &e) && e.ExitCode() > 0 {
		return e.ExitCode(), true
	}
	return 0, false
}

func labTwo(use, short string, do func(*lab.Lab, string, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " NODE NODE",
		Short: short,
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openLab(c)
			if err != nil {
				return err
			}
			return do(l, args[0], args[1])
		},
	}
}

func labHealCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "heal [NODE NODE]",
		Short: "restore the link between two machines, or every link",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return fmt.Errorf("expected two machines, or none for all links")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openLab(c)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return l.HealAll()
			}
			return l.Heal(args[0], args[1])
		},
	}
}

func labRestartCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "restart NODE",
		Short: "restart a node's agent and wait until it is ready",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openLab(c)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), upTimeout)
			defer cancel()
			return l.Restart(ctx, args[0])
		},
	}
}

func labLogsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "logs MACHINE",
		Short: "print the log of a node's agent, or of an etcd member",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openLab(c)
			if err != nil {
				return err
			}
			f, err := l.Log(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(c.OutOrStdout(), f)
			return err
		},
	}
}

func labDemoCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "run a Pod on every node and show that they reach each other, encrypted",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := openLab(c)
			if err != nil {
				return err
			}
			return l.Demo(c.Context(), c.OutOrStdout())
		},
	}
}

// The hidden commands below run inside the lab's namespaces.

func labHoldCmd() *cobra.Command {
	return &cobra.Command{Use: "hold DIR NAME", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error { return lab.Hold(args[0], args[1]) }}
}

func labPlugCmd() *cobra.Command {
	return &cobra.Command{Use: "attach add|del", Hidden: true, Args: cobra.ExactArgs(1), ValidArgs: []string{"add", "del"},
		RunE: func(c *cobra.Command, args []string) error {
			return lab.Attach(c.Context(), args[0], os.Stdin, os.Stdout)
		}}
}

func labPodInitCmd() *cobra.Command {
	return &cobra.Command{Use: "pod-init NAME COMMAND [ARG...]", Hidden: true, Args: cobra.MinimumNArgs(2), DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return lab.PodInit(args[0], args[1:]) }}
}

func labEchoCmd() *cobra.Command {
	var cfg echo.Config
	c := &cobra.Command{Use: "echo", Short: "the server of the lab's Pods: returns its host name and the client's address",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return echo.Serve(c.Context(), cfg, func() { fmt.Fprintln(c.OutOrStdout(), lab.EchoReady) })
		}}
	c.Flags().StringVar(&cfg.TCP, "tcp", ":7", "address of the TCP server, empty for none")
	c.Flags().StringVar(&cfg.UDP, "udp", ":7", "address of the UDP server, empty for none")
	c.Flags().StringVar(&cfg.HTTP, "http", ":80", "address of the HTTP server, empty for none")
	return c
}

func labGetCmd() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{Use: "get URL", Short: "print what an http, tcp or udp URL answers; for Pods of a machine without curl",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			out, err := echo.Call(ctx, args[0])
			fmt.Fprint(c.OutOrStdout(), out)
			return err
		}}
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait")
	return c
}
