package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
)

func dnsCmd() *cobra.Command {
	c := &cobra.Command{Use: "dns", Short: "cluster DNS of this node"}
	c.AddCommand(dnsQueryCmd(), dnsLogCmd())
	return c
}

func dnsQueryCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "query NAME [TYPE]",
		Short: "query this node's DNS server and print the source of the answer",
		Long: "Query this node's DNS server and print the source of the answer: a record, the cache, an upstream, or a failure.\n" +
			"With --namespace the name is searched for as a Pod of that namespace would, step by step.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			q := url.Values{"name": {args[0]}, "type": {"A"}, "namespace": {namespace(c)}}
			if len(args) == 2 {
				q.Set("type", strings.ToUpper(args[1]))
			}
			var e dns.Explanation
			if err := callAgent(c, http.MethodGet, api.DNSPath+"?"+q.Encode(), nil, &e); err != nil {
				return err
			}
			return render(c.OutOrStdout(), format, e, func(w io.Writer) { explain(w, e, "") })
		},
	}
	socketFlag(c)
	outputFlag(c, &format)
	c.Flags().StringP("namespace", "n", "", "search the name as a Pod of this namespace does")
	return c
}

func dnsLogCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "log on|off",
		Short: "write a line to the agent's log for each DNS query, until the agent restarts",
		Args:  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"on", "off"},
		RunE: func(c *cobra.Command, args []string) error {
			if err := callAgent(c, http.MethodPost, api.DNSLogPath+"?on="+strconv.FormatBool(args[0] == "on"), nil, nil); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "log of DNS queries is", args[0])
			return nil
		},
	}
	socketFlag(c)
	return c
}

// sourceText is where an answer came from: the zone, and what in it. It is empty if no source answered.
func sourceText(e dns.Explanation) string {
	switch {
	case e.From == "" || e.From == "failure":
		return ""
	case e.From == "record" && e.Rcode == "NXDOMAIN":
		return ", from the " + e.Zone + " zone"
	}
	return fmt.Sprintf(", from %s (%s)", e.From, e.Zone)
}

func explain(w io.Writer, e dns.Explanation, indent string) {
	for _, s := range e.Steps {
		explain(w, s, indent+"  ")
	}
	line := fmt.Sprintf("%s%s %s: %s%s", indent, e.Name, e.Type, e.Rcode, sourceText(e))
	if e.Upstream != "" {
		line += ", upstream " + e.Upstream
	}
	if e.Note != "" {
		line += "; " + e.Note
	}
	fmt.Fprintln(w, line)
	for _, a := range e.Answers {
		fmt.Fprintf(w, "%s  %s\n", indent, strings.ReplaceAll(a, "\t", " "))
	}
}
