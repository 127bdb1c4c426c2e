package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/ingress"
	"github.com/warrennet/warren/ingress/route"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/kube"
)

// defaultIngressSocket is the local API of the ingress.
const defaultIngressSocket = "/run/warren/ingress.sock"

// ingressFlags are the flags of `warren ingress`.
type ingressFlags struct {
	api         apiFlags
	cfg         ingress.Config
	store       string
	level       string
	proxies     []string
	certificate string
	balancing   string
}

func ingressCmd() *cobra.Command {
	var f ingressFlags
	c := &cobra.Command{
		Use:   "ingress",
		Short: "serve HTTP and HTTPS as Ingresses describe it, directly to the endpoints of Services",
		Long: "Serve HTTP and HTTPS as Ingresses describe it (docs/ingress.md). The process needs no privilege. Without Kubernetes it\n" +
			"reads the objects of `warren apply` from warren's etcd, with the connection in the agent's configuration file.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	f.api.add(c)
	f.add(c)
	c.AddCommand(ingressRoutesCmd(), ingressRouteCmd(), ingressLintCmd())
	return c
}

func (f *ingressFlags) add(c *cobra.Command) {
	f.addStore(c)
	fl := c.Flags()
	fl.StringVar(&f.cfg.HTTP, "http", ":8080", "address for HTTP, empty for none")
	fl.StringVar(&f.cfg.HTTPS, "https", ":8443", "address for HTTPS, empty for none")
	fl.StringVar(&f.cfg.Status, "status", "127.0.0.1:9571", "address for /metrics, /readyz and /livez, empty for none")
	fl.StringVar(&f.cfg.Socket, "socket", defaultIngressSocket, "path of the local API, empty for none")
	fl.StringVar(&f.cfg.AccessLog, "access-log", "", "file for one line of JSON per request, - for standard output, empty for none")
	fl.IntVar(&f.cfg.Sample, "access-log-sample", 1, "log one request of so many; those with status 500 and above are all logged")
	fl.StringSliceVar(&f.proxies, "trusted-proxies", nil, "CIDRs of proxies whose X-Forwarded-For and X-Forwarded-Proto count")
	fl.DurationVar(&f.cfg.Drain, "drain", 30*time.Second, "time for requests in progress after the process was ended")
	fl.DurationVar(&f.cfg.Linger, "linger", 0, "time in which the ended process still accepts connections, with a failing /readyz")
	fl.StringVar(&f.balancing, "balancing", string(route.LeastRequests), "selection of an endpoint: least-requests or round-robin")
	fl.StringSliceVar(&f.cfg.Routes.SharedHosts, "shared-hosts", nil,
		"hosts that Ingresses of several namespaces may have: names, *.example.com, or * for all")
	fl.StringVar(&f.certificate, "default-certificate", "", "NAMESPACE/NAME of the TLS Secret for server names without one")
	fl.BoolVar(&f.cfg.Routes.Classless, "classless", false, "serve Ingresses without a class also if warren's class is not the default")
	fl.BoolVar(&f.cfg.Routes.Nginx, "nginx-annotations", false, "the annotations of ingress-nginx count as well, with its behaviour")
	fl.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
}

// addStore adds the flags that select where the objects are.
func (f *ingressFlags) addStore(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.store, "store", envOr("WARREN_INGRESS_STORE", "etcd"), "where the objects are: etcd or kubernetes")
	fl.String("config", config.DefaultFile, "the agent's configuration file, for the connection to etcd")
	fl.String("cluster-config", "", "file of settings that the controller writes, for the connection to etcd")
}

// complete parses the flags that are texts.
func (f *ingressFlags) complete() error {
	var errs []error
	f.cfg.Routes.Balancing = route.Balancing(f.balancing)
	for _, s := range f.proxies {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("--trusted-proxies %q: expected a CIDR such as 192.0.2.0/24", s))
		}
		f.cfg.TrustedProxies = append(f.cfg.TrustedProxies, p)
	}
	if f.certificate != "" {
		ns, name, ok := strings.Cut(f.certificate, "/")
		if !ok || ns == "" || name == "" || strings.Contains(name, "/") {
			errs = append(errs, fmt.Errorf("--default-certificate %q: expected NAMESPACE/NAME", f.certificate))
		}
		f.cfg.Routes.DefaultCertificate = model.ObjectName{Namespace: ns, Name: name}
	}
	return errors.Join(append(errs, f.cfg.Validate())...)
}

func (f *ingressFlags) run(c *cobra.Command) error {
	if err := f.complete(); err != nil {
		return fmt.Errorf("the flags have problems:\n%w", err)
	}
	return f.withSource(c, f.serve)
}

// withSource calls do with the objects of the store that the flag names.
func (f *ingressFlags) withSource(c *cobra.Command, do func(context.Context, ingress.Source) error) error {
	switch f.store {
	case "etcd":
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		s, err := etcd.New(cfg.Etcd)
		if err != nil {
			return err
		}
		defer s.Close()
		return do(c.Context(), s.FollowIngress)
	case "kubernetes":
		conn, err := f.api.connect("warren-ingress")
		if err != nil {
			return err
		}
		return f.api.with(c.Context(), conn, func(ctx context.Context) error { return do(ctx, kube.NewIngressStore(conn).Watch) })
	}
	return fmt.Errorf("--store %q: expected etcd or kubernetes", f.store)
}

func (f *ingressFlags) serve(ctx context.Context, source ingress.Source) error {
	p, err := ingress.New(f.cfg, source, logger(f.level))
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

func ingressRoutesCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "routes",
		Short: "show all rules of the ingress that runs here, in their order, and the problems of objects",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var r ingress.Routes
			if err := callIngress(c, ingress.RoutesPath, &r); err != nil {
				return err
			}
			return render(c.OutOrStdout(), format, r, func(w io.Writer) { printRoutes(w, &r) })
		},
	}
	c.Flags().String("socket", defaultIngressSocket, "the ingress' local API")
	outputFlag(c, &format)
	return c
}

func printRoutes(w io.Writer, r *ingress.Routes) {
	if r.Ready != "" {
		fmt.Fprintf(w, "NOT READY: %s\n", r.Ready)
	}
	if r.Store != "" {
		fmt.Fprintf(w, "PROBLEM: the store does not answer since %s: %s\n", r.Since.Format(time.RFC3339), r.Store)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "PROBLEM: %s\n", p)
	}
	fmt.Fprintln(w, "HOST\tPATH\tTYPE\tINGRESS\tSERVICE\tTLS\tENDPOINTS")
	for _, v := range r.Routes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Host, dash(v.Path), dash(v.Type), v.Ingress, dash(v.Service), dash(v.TLS),
			endpointText(&v))
	}
}

func endpointText(v *route.View) string {
	if v.Fault != "" {
		return "NONE: " + v.Fault
	}
	var out []string
	for _, e := range v.Endpoints {
		s := e.Address
		if e.Avoided {
			s += "(avoided)"
		}
		out = append(out, s)
	}
	if v.Draining {
		out = append(out, "(terminating)")
	}
	return strings.Join(out, " ")
}

func ingressRouteCmd() *cobra.Command {
	var format, method string
	c := &cobra.Command{
		Use:   "route URL",
		Short: "explain how the ingress that runs here routes a request: which rule, why, which endpoint",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var x route.Explanation
			query := url.Values{"url": {args[0]}, "method": {method}}
			if err := callIngress(c, ingress.RoutePath+"?"+query.Encode(), &x); err != nil {
				return err
			}
			return render(c.OutOrStdout(), format, x, func(w io.Writer) { printExplanation(w, &x) })
		},
	}
	c.Flags().String("socket", defaultIngressSocket, "the ingress' local API")
	c.Flags().StringVar(&method, "method", http.MethodGet, "method of the request")
	outputFlag(c, &format)
	return c
}

func printExplanation(w io.Writer, x *route.Explanation) {
	for i, why := range x.Why {
		fmt.Fprintf(w, "%d. %s\n", i+1, why)
	}
	if v := x.Rule; v != nil {
		fmt.Fprintf(w, "ingress:\t%s\nrule:\t%s %s %s\nservice:\t%s\n", v.Ingress, v.Host, dash(v.Path), v.Type, dash(v.Service))
		for _, e := range v.Endpoints {
			mark := ""
			if e.Address == x.Choice {
				mark = "<- now"
			}
			fmt.Fprintf(w, "endpoint:\t%s\tnode %s\tPod %s\t%d in progress\t%s\n", e.Address, dash(e.Node), dash(e.Pod), e.Active, mark)
		}
	}
	for _, p := range x.Problems {
		fmt.Fprintf(w, "PROBLEM:\t%s\n", p)
	}
}

// callIngress makes one call on the socket of the ingress.
func callIngress(c *cobra.Command, path string, out any) error {
	socket, err := c.Flags().GetString("socket")
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(c.Context(), http.MethodGet, "http://ingress"+path, nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _,
		_ string) (net.Conn,
		error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no ingress answers at %s (is `warren ingress` running here?): %w", socket, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what was read is shown
		return errors.New(strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
