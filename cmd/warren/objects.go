package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/etcd/objectstore"
	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// withStore opens the store that the configuration names.
func withStore(c *cobra.Command, do func(*objectstore.Store) error) error {
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	s, err := etcd.New(cfg.Etcd)
	if err != nil {
		return err
	}
	defer s.Close()
	return do(s.Objects)
}

func namespaceFlag(c *cobra.Command) {
	c.Flags().StringP("namespace", "n", "default", "namespace of the objects")
}

func namespace(c *cobra.Command) string {
	ns, _ := c.Flags().GetString("namespace") // declared by namespaceFlag
	return ns
}

func applyCmd() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "create or change Services, Ingresses, TLS Secrets and other objects from manifests, in clusters without Kubernetes",
		Long:  "Create or change objects from manifests, in clusters without Kubernetes.\n\nKinds: " + kindNames() + ".",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := manifests(c, file)
			if err != nil {
				return err
			}
			return withStore(c, func(s *objectstore.Store) error { return applyAll(c, s, list) })
		},
	}
	fileFlag(c, &file)
	configFlags(c)
	namespaceFlag(c)
	return c
}

// kindNames lists the kinds of objects.
func kindNames() string {
	var out []string
	for _, k := range objects.Kinds {
		out = append(out, k.Name)
	}
	return strings.Join(out, ", ")
}

func fileFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "filename", "f", "", "manifests in YAML or JSON; - for standard input")
	_ = c.MarkFlagRequired("filename") // it was declared above
}

// manifests reads a file and checks all of it before anything is changed.
func manifests(c *cobra.Command, file string) ([]objects.Object, error) {
	in := c.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	list, err := objects.Parse(in, namespace(c))
	errs := []error{err}
	for _, o := range list {
		if err := objects.Validate(o); err != nil {
			k, _ := objects.KindOf(o) // Parse returns known kinds only
			errs = append(errs, fmt.Errorf("%s %q is invalid: %w", k.Name, o.GetName(), err))
		}
	}
	return list, errors.Join(errs...)
}

func applyAll(c *cobra.Command, s *objectstore.Store, list []objects.Object) error {
	var errs []error
	for _, k := range objects.Kinds { // ranges before Services, Services before endpoints
		for _, o := range list {
			if have, _ := objects.KindOf(o); have.Name != k.Name {
				continue
			}
			done, err := s.Apply(c.Context(), o)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			fmt.Fprintf(c.OutOrStdout(), "%s/%s %s\n", strings.ToLower(k.Name), o.GetName(), done)
			errs = append(errs, printPending(c, s, k, o))
		}
	}
	return errors.Join(errs...)
}

// printPending prints why a Service waits for load balancer addresses.
func printPending(c *cobra.Command, s *objectstore.Store, k objects.Kind, o objects.Object) error {
	if svc, ok := o.(*corev1.Service); !ok || svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	now, err := s.Get(c.Context(), k, o.GetNamespace(), o.GetName())
	if err != nil {
		return err
	}
	why, err := s.Pending(c.Context(), now.(*corev1.Service))
	for _, w := range why {
		fmt.Fprintf(c.OutOrStdout(), "  waits for a load balancer address: %s\n", w)
	}
	return err
}

func deleteCmd() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "delete (KIND NAME... | -f FILE)",
		Short: "delete Services, endpoints, Ingresses, TLS Secrets and other objects, in clusters without Kubernetes",
		RunE: func(c *cobra.Command, args []string) error {
			type target struct {
				k        objects.Kind
				ns, name string
			}
			var targets []target
			if file != "" {
				list, err := manifests(c, file)
				if err != nil {
					return err
				}
				for _, o := range list {
					k, _ := objects.KindOf(o)
					targets = append(targets, target{k, o.GetNamespace(), o.GetName()})
				}
			} else {
				if len(args) < 2 {
					return errors.New("expected a kind and names, or -f FILE")
				}
				k, err := objects.KindNamed(args[0])
				if err != nil {
					return err
				}
				for _, n := range args[1:] {
					targets = append(targets, target{k, namespace(c), n})
				}
			}
			return withStore(c, func(s *objectstore.Store) error {
				var errs []error
				for _, t := range targets {
					if err := s.Delete(c.Context(), t.k, t.ns, t.name); err != nil {
						errs = append(errs, err)
						continue
					}
					fmt.Fprintf(c.OutOrStdout(), "%s/%s deleted\n", strings.ToLower(t.k.Name), t.name)
				}
				return errors.Join(errs...)
			})
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "delete what these manifests name; - for standard input")
	configFlags(c)
	namespaceFlag(c)
	return c
}

func getCmd() *cobra.Command {
	var format string
	var all bool
	c := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "list Services, endpoints, Ingresses, TLS Secrets or other objects, or print one",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := objects.KindNamed(args[0])
			if err != nil {
				return err
			}
			return withStore(c, func(s *objectstore.Store) error {
				list, err := fetch(c, s, k, args[1:], all)
				if err != nil {
					return err
				}
				return printObjects(c.OutOrStdout(), format, k, list)
			})
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "text", "text, yaml or json")
	c.Flags().BoolVarP(&all, "all-namespaces", "A", false, "the objects of every namespace")
	configFlags(c)
	namespaceFlag(c)
	return c
}

func fetch(c *cobra.Command, s *objectstore.Store, k objects.Kind, names []string, all bool) ([]objects.Object, error) {
	if len(names) == 1 {
		o, err := s.Get(c.Context(), k, namespace(c), names[0])
		return []objects.Object{o}, err
	}
	ns := namespace(c)
	if all {
		ns = ""
	}
	return s.List(c.Context(), k, ns)
}

func printObjects(w io.Writer, format string, k objects.Kind, list []objects.Object) error {
	switch format {
	case "yaml", "json":
		for i, o := range list {
			raw, err := objects.Encode(o)
			if err != nil {
				return err
			}
			if format == "yaml" {
				if raw, err = yaml.JSONToYAML(raw); err != nil {
					return err
				}
				if i > 0 {
					fmt.Fprintln(w, "---")
				}
			}
			fmt.Fprintln(w, strings.TrimSpace(string(raw)))
		}
		return nil
	case "text":
	default:
		return fmt.Errorf("--output %q is none of text, yaml, json", format)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(columns(k), "\t"))
	for _, o := range list {
		fmt.Fprintln(t, strings.Join(row(o), "\t"))
	}
	return t.Flush()
}

func columns(k objects.Kind) []string {
	switch k.Name {
	case "Service":
		return []string{"NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORTS", "AGE"}
	case "AddressPool":
		return []string{"NAME", "ADDRESSES", "AUTO-ASSIGN", "NAMESPACES", "PRIORITY", "AGE"}
	case "ServiceCIDR":
		return []string{"NAME", "CIDRS", "AGE"}
	case "Ingress":
		return []string{"NAMESPACE", "NAME", "CLASS", "HOSTS", "TLS", "AGE"}
	case "IngressClass":
		return []string{"NAME", "CONTROLLER", "DEFAULT", "AGE"}
	case "Secret":
		return []string{"NAMESPACE", "NAME", "TYPE", "HOSTS", "EXPIRES", "AGE"}
	}
	return []string{"NAMESPACE", "NAME", "ENDPOINTS", "AGE"}
}

func row(o objects.Object) []string {
	age := time.Since(o.GetCreationTimestamp().Time).Truncate(time.Second).String()
	switch o := o.(type) {
	case *corev1.Service:
		ips := strings.Join(o.Spec.ClusterIPs, ",")
		return []string{o.Namespace, o.Name, string(o.Spec.Type), dash(ips), dash(externals(o)), dash(portList(o)), age}
	case *objects.AddressPool:
		return []string{o.Name, strings.Join(o.Spec.Addresses, ","), fmt.Sprint(o.Spec.AutoAssign == nil || *o.Spec.AutoAssign),
			dash(strings.Join(o.Spec.Namespaces, ",")), fmt.Sprint(o.Spec.Priority), age}
	case *networkingv1.ServiceCIDR:
		return []string{o.Name, strings.Join(o.Spec.CIDRs, ","), age}
	case *networkingv1.Ingress:
		in := objects.Ingress(o)
		var hosts []string
		for _, r := range in.Rules {
			hosts = append(hosts, cmp.Or(r.Host, "*"))
		}
		return []string{in.Namespace, in.Name, dash(cmp.Or(in.Class, in.ClassAnnotation)), dash(strings.Join(hosts, ",")),
			fmt.Sprint(len(in.TLS) > 0), age}
	case *networkingv1.IngressClass:
		k := objects.IngressClass(o)
		return []string{k.Name, k.Controller, fmt.Sprint(k.Default), age}
	case *corev1.Secret:
		hosts, expires := certificateText(o)
		return []string{o.Namespace, o.Name, string(o.Type), dash(hosts), dash(expires), age}
	case *discoveryv1.EndpointSlice:
		n := 0
		for _, e := range o.Endpoints {
			n += len(e.Addresses)
		}
		return []string{o.Namespace, o.Name, fmt.Sprint(n), age}
	case *objects.HandEndpoints:
		n := 0
		for _, s := range o.Subsets {
			n += len(s.Addresses)
		}
		return []string{o.Namespace, o.Name, fmt.Sprint(n), age}
	}
	return []string{o.GetNamespace(), o.GetName()}
}

// certificateText returns the names in the certificate of a TLS Secret and the time until which it is valid.
func certificateText(s *corev1.Secret) (hosts, expires string) {
	pair, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil || pair.Leaf == nil {
		return "", ""
	}
	return strings.Join(pair.Leaf.DNSNames, ","), pair.Leaf.NotAfter.UTC().Format(time.RFC3339)
}

func externals(s *corev1.Service) string {
	out := append([]string{}, s.Spec.ExternalIPs...)
	for _, in := range s.Status.LoadBalancer.Ingress {
		out = append(out, in.IP)
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		out = append(out, s.Spec.ExternalName)
	}
	return strings.Join(out, ",")
}

func portList(s *corev1.Service) string {
	var out []string
	for _, p := range s.Spec.Ports {
		x := fmt.Sprint(p.Port)
		if p.NodePort != 0 {
			x += fmt.Sprintf(":%d", p.NodePort)
		}
		out = append(out, x+"/"+string(p.Protocol))
	}
	return strings.Join(out, ",")
}

func describeCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "describe KIND NAME",
		Short: "print everything about one object; of a Service also its endpoints, of a Secret no key",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := objects.KindNamed(args[0])
			if err != nil {
				return err
			}
			return withStore(c, func(s *objectstore.Store) error {
				o, err := s.Get(c.Context(), k, namespace(c), args[1])
				if err != nil {
					return err
				}
				if x, ok := o.(*corev1.Secret); ok {
					return describeSecret(c.OutOrStdout(), x)
				}
				if err := printObjects(c.OutOrStdout(), "yaml", k, []objects.Object{o}); err != nil || k.Name != "Service" {
					return err
				}
				return errors.Join(printPending(c, s, k, o), describeEndpoints(c, s, o.GetName()))
			})
		},
	}
	configFlags(c)
	namespaceFlag(c)
	return c
}

// describeSecret prints a Secret without its data, which has a private key.
func describeSecret(w io.Writer, s *corev1.Secret) error {
	hosts, expires := certificateText(s)
	fmt.Fprintf(w, "name: %s\nnamespace: %s\ntype: %s\ncertificate for: %s\nvalid until: %s\ndata:\n", s.Name, s.Namespace, s.Type,
		dash(hosts), dash(expires))
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		fmt.Fprintf(w, "  %s: %d bytes\n", key, len(s.Data[key]))
	}
	return nil
}

// describeEndpoints lists the slices given by hand for a Service.
func describeEndpoints(c *cobra.Command, s *objectstore.Store, service string) error {
	k, err := objects.KindNamed("EndpointSlice")
	if err != nil {
		return err
	}
	list, err := s.List(c.Context(), k, namespace(c))
	if err != nil {
		return err
	}
	for _, o := range list {
		slice, ok := objects.Slice(o.(*discoveryv1.EndpointSlice))
		if !ok || slice.Service != service {
			continue
		}
		fmt.Fprintf(c.OutOrStdout(), "\nendpoints of slice %s:\n", slice.Name)
		for _, e := range slice.Endpoints {
			fmt.Fprintf(c.OutOrStdout(), "  %s ready=%v serving=%v terminating=%v node=%s\n", e.Addr, e.Ready, e.Serving, e.Terminating,
				dash(e.Node))
		}
	}
	return nil
}
