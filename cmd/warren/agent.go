package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/pprof"
	"strings"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/agent"
	"github.com/warrennet/warren/agent/config"
)

func agentCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "agent",
		Short: "run this node's agent",
		Long: "Run this node's agent.\n\nEvery setting has a key in the config file, an environment variable and a flag. A flag\n" +
			"overrides the environment, the environment overrides the file. Keys of the file:\n\n" + settingsHelp(),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := loadConfig(c)
			if err != nil {
				return fmt.Errorf("the configuration has problems:\n%w", err)
			}
			stop, err := profile(c)
			if err != nil {
				return err
			}
			defer stop()
			log := logger(cfg.LogLevel)
			for _, w := range cfg.Warnings() {
				log.Warn("the configuration may not be as intended", "problem", w)
			}
			a, err := agent.New(cfg, log)
			if err != nil {
				return err
			}
			return a.Run(c.Context())
		},
	}
	configFlags(c)
	c.Flags().String("cpuprofile", "", "write a CPU profile to this file until the agent stops (go tool pprof reads it)")
	return c
}

// profile starts a CPU profile if the flag requests one. The returned function ends it.
func profile(c *cobra.Command) (stop func(), err error) {
	file, err := c.Flags().GetString("cpuprofile")
	if err != nil || file == "" {
		return func() {}, err
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

// configFlags adds every setting of the agent as a flag.
func configFlags(c *cobra.Command) {
	c.Flags().String("config", config.DefaultFile, "configuration file (YAML)")
	c.Flags().String("cluster-config", os.Getenv("WARREN_CLUSTER_CONFIG"),
		"file of settings that the controller writes; --config overrides them; the agent applies changes while it runs")
	for _, s := range config.Settings() {
		c.Flags().String(s.Flag(), s.Default(), s.Usage)
	}
}

func loadConfig(c *cobra.Command) (config.Config, error) {
	flags := map[string]string{}
	for _, s := range config.Settings() {
		if f := c.Flags().Lookup(s.Flag()); f != nil && f.Changed {
			flags[s.Key] = f.Value.String()
		}
	}
	file, err := c.Flags().GetString("config")
	if err != nil {
		return config.Config{}, err
	}
	cluster, err := c.Flags().GetString("cluster-config")
	if err != nil {
		return config.Config{}, err
	}
	return config.Load(cluster, file, os.Environ(), flags)
}

func settingsHelp() string {
	var b strings.Builder
	for _, s := range config.Settings() {
		fmt.Fprintf(&b, "  %-18s %s (%s)\n", s.Key, s.Usage, s.Env())
	}
	return b.String()
}

func logger(level string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // validated with the configuration
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
}
