package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/api"
)

// flowFilter selects flows. An empty field matches all.
type flowFilter struct{ address, pod, service string }

func flowsCmd() *cobra.Command {
	var format string
	var filter flowFilter
	var watch bool
	c := &cobra.Command{
		Use:   "flows",
		Short: "list the flows that this node translates",
		Long: "List the flows that this node translates.\n\n" +
			"SENT TO is the address and port that the client uses: a ClusterIP, node port, host port or load balancer address.\n" +
			"SEEN AS is the source address and port that the backend receives.\n" +
			"FORWARDED BY is `agent`, or `offload` while the eBPF program forwards the flow in the kernel. A flow that has ended,\n" +
			"or that is too short to be offloaded, shows `agent`.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			match, err := filter.compile(c)
			if err != nil {
				return err
			}
			if watch {
				return watchFlows(c, format, match)
			}
			list, err := listFlows(c, match)
			if err != nil {
				return err
			}
			return printFlows(c, format, list)
		},
	}
	socketFlag(c)
	outputFlag(c, &format)
	c.Flags().StringVar(&filter.address, "address", "", "only flows with this address at either end")
	c.Flags().StringVar(&filter.pod, "pod", "", "only flows of this Pod of this node, NAMESPACE/NAME")
	c.Flags().StringVar(&filter.service, "service", "", "only flows to this Service, NAMESPACE/NAME")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "keep running and print each new flow (+) and each flow that ends (-)")
	return c
}

// compile looks up the addresses of the Pod and the Service that the filter names.
func (f flowFilter) compile(c *cobra.Command) (func(api.Flow) bool, error) {
	addrs := map[netip.Addr]bool{}
	if f.address != "" {
		a, err := netip.ParseAddr(f.address)
		if err != nil {
			return nil, fmt.Errorf("--address %q is not an address", f.address)
		}
		addrs[a] = true
	}
	if f.pod != "" {
		var pods []api.Pod
		if err := callAgent(c, http.MethodGet, api.PodsPath, nil, &pods); err != nil {
			return nil, err
		}
		found := false
		for _, p := range pods {
			if p.Namespace+"/"+p.Name == f.pod {
				found = true
				for _, a := range p.Addresses {
					addrs[a] = true
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("--pod %q is not a Pod of this node (expected NAMESPACE/NAME)", f.pod)
		}
	}
	type at struct {
		addr  netip.AddrPort
		proto string
	}
	fronts := map[at]bool{}
	if f.service != "" {
		var all []api.Frontend
		if err := callAgent(c, http.MethodGet, api.ServicesPath, nil, &all); err != nil {
			return nil, err
		}
		for _, x := range all {
			if x.Service == f.service {
				fronts[at{x.Address, x.Protocol}] = true
			}
		}
		if len(fronts) == 0 {
			return nil, fmt.Errorf("--service %q is not served by this node (expected NAMESPACE/NAME)", f.service)
		}
	}
	return func(x api.Flow) bool {
		return (len(addrs) == 0 || touches(x, addrs)) && (len(fronts) == 0 || fronts[at{x.Service, x.Protocol}])
	}, nil
}

func touches(f api.Flow, addrs map[netip.Addr]bool) bool {
	return addrs[f.Client.Addr()] || addrs[f.Service.Addr()] || addrs[f.Source.Addr()] || addrs[f.Backend.Addr()]
}

func listFlows(c *cobra.Command, match func(api.Flow) bool) (list []api.Flow, err error) {
	var all []api.Flow
	if err := callAgent(c, http.MethodGet, api.FlowsPath, nil, &all); err != nil {
		return nil, err
	}
	for _, f := range all {
		if match(f) {
			list = append(list, f)
		}
	}
	return list, nil
}

// flowPoll is the interval between two lists of flows in watch mode. Shorter flows may be missed.
const flowPoll = 200 * time.Millisecond

// flowEvent is a flow that started or ended.
type flowEvent struct {
	Event string `json:"event"` // + or -
	api.Flow
}

func watchFlows(c *cobra.Command, format string, match func(api.Flow) bool) error {
	type id struct {
		proto           string
		client, service netip.AddrPort
	}
	have := map[id]api.Flow{}
	show := func(event string, f api.Flow) error {
		if format == "json" {
			return json.NewEncoder(c.OutOrStdout()).Encode(flowEvent{event, f})
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s %-7s %-12s %s -> %s -> %s seen as %s\n", event, f.Protocol, f.State, f.Client, f.Service,
			f.Backend, f.Source)
		return err
	}
	for {
		list, err := listFlows(c, match)
		if err != nil {
			return err
		}
		now := make(map[id]api.Flow, len(list))
		for _, f := range list {
			k := id{f.Protocol, f.Client, f.Service}
			now[k] = f
			if _, ok := have[k]; !ok {
				if err := show("+", f); err != nil {
					return err
				}
			}
		}
		for k, f := range have {
			if _, ok := now[k]; !ok {
				if err := show("-", f); err != nil {
					return err
				}
			}
		}
		have = now
		if !sleep(c.Context(), flowPoll) {
			return nil
		}
	}
}

// sleep waits for d. It returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// forwarder names what translates and forwards a flow's packets now: the agent or the eBPF program (offload).
func forwarder(f api.Flow) string {
	if f.Offloaded {
		return "offload"
	}
	return "agent"
}

func printFlows(c *cobra.Command, format string, list []api.Flow) error {
	return render(c.OutOrStdout(), format, list, func(t io.Writer) {
		fmt.Fprintln(t, "KIND\tPROTO\tSTATE\tCLIENT\tSENT TO\tBACKEND\tSEEN AS\tAGE\tIDLE\tFORWARDED BY")
		for _, f := range list {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%ds\t%ds\t%s\n", f.Kind, f.Protocol, f.State, f.Client, f.Service, f.Backend,
				f.Source, f.Age, f.Idle, forwarder(f))
		}
	})
}
