package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/ingress"
	"github.com/warrennet/warren/ingress/route"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// lintTimeout bounds the time to read the objects of a cluster.
const lintTimeout = 30 * time.Second

func ingressLintCmd() *cobra.Command {
	var f ingressFlags
	var file, format, gateway string
	c := &cobra.Command{
		Use:   "lint [-f FILE]",
		Short: "report what changes when warren serves Ingresses of ingress-nginx, from manifests or from the cluster",
		Long: "Report for each Ingress what is invalid or has no effect (error), and what differs from ingress-nginx (change).\n" +
			"With -f the Ingresses of a file are checked, without it those of the cluster. The exit status is 1 if there is an error.\n" +
			"With -o httproute the Ingresses are printed as HTTPRoutes instead.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			in, err := f.lintInput(c, file)
			if err != nil {
				return err
			}
			if format == "httproute" {
				return printHTTPRoutes(c, in, gateway)
			}
			list := route.Lint(in)
			if err := render(c.OutOrStdout(), format, list, func(w io.Writer) { printFindings(w, len(in.Ingresses), list) }); err != nil {
				return err
			}
			n := 0
			for _, x := range list {
				if x.Level == route.LevelError {
					n++
				}
			}
			if n > 0 {
				return fmt.Errorf("%d of %d findings are errors", n, len(list))
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "manifests in YAML or JSON; - for standard input; other kinds are ignored")
	c.Flags().StringVarP(&format, "output", "o", "text", "text, json, or httproute: the Ingresses as HTTPRoutes of the Gateway API")
	c.Flags().StringVar(&gateway, "gateway", "warren", "[NAMESPACE/]NAME of the Gateway in HTTPRoutes")
	f.api.add(c)
	f.addStore(c)
	return c
}

// printHTTPRoutes prints the Ingresses as HTTPRoutes, and to standard error what has no equivalent.
func printHTTPRoutes(c *cobra.Command, in *model.IngressObjects, gateway string) error {
	routes, findings := route.HTTPRoutes(in, gateway)
	for _, r := range routes {
		raw, err := yaml.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "---\n%s", raw)
	}
	for _, x := range findings {
		fmt.Fprintf(c.ErrOrStderr(), "%s %s: %s\n", x.Object, x.Field, x.Message)
	}
	if len(findings) > 0 {
		return fmt.Errorf("%d parts of the Ingresses have no equivalent", len(findings))
	}
	return nil
}

func printFindings(w io.Writer, ingresses int, list []route.Finding) {
	fmt.Fprintf(w, "%d Ingresses, %d findings\n", ingresses, len(list))
	for _, x := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", x.Level, x.Object, x.Field, x.Message)
	}
}

// lintInput reads the objects of a file, or those of the cluster.
func (f *ingressFlags) lintInput(c *cobra.Command, file string) (in *model.IngressObjects, err error) {
	if file != "" {
		return lintFile(c, file)
	}
	ctx, cancel := context.WithTimeout(c.Context(), lintTimeout)
	defer cancel()
	var last error
	err = f.withSource(c, func(_ context.Context, source ingress.Source) error {
		source(ctx, func(o *model.IngressObjects) { in = o; cancel() }, func(err error) {
			if err != nil {
				last = err
			}
		})
		return nil
	})
	if err == nil && in == nil {
		err = errors.Join(fmt.Errorf("the store did not answer within %s", lintTimeout), last)
	}
	return in, err
}

func lintFile(c *cobra.Command, file string) (*model.IngressObjects, error) {
	r := c.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	list, _, err := objects.ParseKnown(r, "default")
	if err != nil {
		return nil, err
	}
	in := &model.IngressObjects{}
	for _, o := range list {
		switch o := o.(type) {
		case *networkingv1.Ingress:
			in.Ingresses = append(in.Ingresses, objects.Ingress(o))
		case *corev1.Service:
			s := objects.Service(o)
			in.Services = append(in.Services, &s)
		}
	}
	return in, nil
}
