package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/text"
)

func podCmd() *cobra.Command {
	c := &cobra.Command{Use: "pod", Short: "list this node's Pods and set their labels and probes"}
	c.AddCommand(podListCmd(), podLabelCmd(), podProbeCmd())
	for _, sub := range c.Commands() {
		socketFlag(sub)
	}
	return c
}

func podListCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "list",
		Short: "list this node's Pods",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var pods []api.Pod
			if err := callAgent(c, http.MethodGet, api.PodsPath, nil, &pods); err != nil {
				return err
			}
			slices.SortFunc(pods, func(a, b api.Pod) int { return strings.Compare(podNameOf(a), podNameOf(b)) })
			return printPods(c, format, pods)
		},
	}
	outputFlag(c, &format)
	return c
}

func podNameOf(p api.Pod) string { return p.Namespace + "/" + p.Name }

func printPods(c *cobra.Command, format string, pods []api.Pod) error {
	return render(c.OutOrStdout(), format, pods, func(t io.Writer) {
		fmt.Fprintln(t, "POD\tADDRESSES\tREADY\tLABELS\tINTERFACE\tPROBE")
		for _, p := range pods {
			fmt.Fprintf(t, "%s\t%s\t%v\t%s\t%s\t%s\n", podNameOf(p), dash(text.Join(p.Addresses, " ")), p.Ready, dash(labelText(p.Labels)),
				p.Link, dash(probeText(p)))
		}
	})
}

func labelText(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ",")
}

func podLabelCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "label NAMESPACE/NAME KEY=VALUE... KEY-...",
		Short: "set and remove labels of a Pod of this node, in clusters without Kubernetes",
		Long: "Set and remove labels of a Pod of this node; Services follow at once.\n\nThe labels are stored with the Pod and removed " +
			"with it. " +
			"On Kubernetes labels are the API server's: use kubectl label.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := parseLabels(args[1:])
			if err != nil {
				return err
			}
			q.Pod = inNamespace(args[0])
			var p api.Pod
			if err := callAgent(c, http.MethodPost, api.PodLabelsPath, q, &p); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "pod %s labelled: %s\n", podNameOf(p), dash(labelText(p.Labels)))
			return nil
		},
	}
}

// inNamespace completes a Pod's name.
func inNamespace(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return "default/" + name
}

func parseLabels(words []string) (q api.PodLabels, err error) {
	q.Set = map[string]string{}
	for _, w := range words {
		k, v, isSet := strings.Cut(w, "=")
		_, twice := q.Set[k]
		switch {
		case isSet && twice:
			return q, fmt.Errorf("label %q is given twice", k)
		case isSet:
			q.Set[k] = v
		case len(w) > 1 && strings.HasSuffix(w, "-"):
			q.Remove = append(q.Remove, strings.TrimSuffix(w, "-"))
		default:
			return q, fmt.Errorf("%q is neither KEY=VALUE nor KEY-", w)
		}
	}
	return q, nil
}
