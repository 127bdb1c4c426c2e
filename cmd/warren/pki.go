package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/controller"
	"github.com/warrennet/warren/internal/pki"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func pkiCmd() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "pki",
		Short: "make and rotate the certificates of warren's own etcd by hand",
		Long: "Make and rotate the certificates of warren's own etcd by hand. On Kubernetes the controller makes them and never " +
			"replaces existing ones.\n" +
			"With --secret the result is a Secret on stdout, for `kubectl apply -f -`, and holds keys.",
	}
	c.PersistentFlags().StringVar(&dir, "dir", ".", "directory of the authority: ca.crt and ca.key")
	c.AddCommand(pkiCACmd(&dir), pkiClientCmd(&dir), pkiServerCmd(&dir), pkiRotateCmd(&dir))
	return c
}

// secretFlags select a Secret as output, and its namespace.
type secretFlags struct {
	on        bool
	namespace string
}

func (s *secretFlags) add(c *cobra.Command, usage string) {
	c.Flags().BoolVar(&s.on, "secret", false, usage)
	c.Flags().StringVar(&s.namespace, "namespace", "warren-system", "namespace of the Secret")
}

func (s *secretFlags) print(w io.Writer, name string, kind corev1.SecretType, data map[string][]byte) error {
	return printYAML(w, &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace}, Type: kind, Data: data})
}

func printYAML(w io.Writer, v any) error {
	text, err := yaml.Marshal(v)
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

func pkiCACmd(dir *string) *cobra.Command {
	var name string
	var secret secretFlags
	c := &cobra.Command{
		Use:   "ca",
		Short: "make the authority, if the directory has none",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ca, err := pki.EnsureCA(*dir, name)
			if err != nil {
				return err
			}
			if !secret.on {
				fmt.Fprintf(c.OutOrStdout(), "the authority is in %s and %s\n",
					filepath.Join(*dir, pki.CAFile), filepath.Join(*dir, pki.CAKeyFile))
				return nil
			}
			return secret.print(c.OutOrStdout(), controller.CASecret, corev1.SecretTypeOpaque,
				map[string][]byte{pki.CAFile: ca.Trusted(), pki.CAKeyFile: ca.KeyPEM()})
		},
	}
	c.Flags().StringVar(&name, "name", "warren etcd", "common name of the authority")
	secret.add(c, "print Secret "+controller.CASecret)
	return c
}

func pkiClientCmd(dir *string) *cobra.Command {
	var r pki.Request
	var secret secretFlags
	c := &cobra.Command{
		Use:   "client",
		Short: "make a client's certificate: NAME.crt and NAME.key",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ca, err := pki.LoadCA(*dir)
			if err != nil {
				return err
			}
			if r.Name == pki.MemberName {
				return fmt.Errorf("--name %s: this is the common name of etcd's members; give a client another one, "+
					"such as the name of its node", r.Name)
			}
			p, err := ca.Sign(r)
			if err != nil {
				return err
			}
			if !secret.on {
				return writePair(c.OutOrStdout(), *dir, r.Name, p)
			}
			return secret.print(c.OutOrStdout(), controller.ClientSecret, corev1.SecretTypeTLS,
				map[string][]byte{pki.CAFile: ca.Trusted(), corev1.TLSCertKey: p.Cert, corev1.TLSPrivateKeyKey: p.Key})
		},
	}
	requestFlags(c, &r, "warren-agent")
	secret.add(c, "print Secret "+controller.ClientSecret+" in place of writing files")
	return c
}

func pkiServerCmd(dir *string) *cobra.Command {
	var r pki.Request
	var addrs []string
	c := &cobra.Command{
		Use:   "server",
		Short: "make a member's certificate: NAME.crt and NAME.key",
		Long: "Make a member's certificate: NAME.crt and NAME.key.\n\nIts common name is " + pki.MemberName + ". Members accept each " +
			"other by this name, and refuse certificates of clients at their peer port.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ca, err := pki.LoadCA(*dir)
			if err != nil {
				return err
			}
			for _, s := range addrs {
				a, err := netip.ParseAddr(s)
				if err != nil {
					return fmt.Errorf("--addr: %w", err)
				}
				r.Addrs = append(r.Addrs, a)
			}
			if len(r.Addrs)+len(r.DNS) == 0 {
				return fmt.Errorf("a server needs --addr or --dns: clients verify one of them")
			}
			file := r.Name
			r.Name = pki.MemberName
			p, err := ca.Sign(r)
			if err != nil {
				return err
			}
			return writePair(c.OutOrStdout(), *dir, file, p)
		},
	}
	requestFlags(c, &r, "etcd")
	c.Flags().Lookup("name").Usage = "name of the files"
	c.Flags().StringSliceVar(&addrs, "addr", nil, "addresses of the server")
	c.Flags().StringSliceVar(&r.DNS, "dns", nil, "DNS names of the server")
	return c
}

// writePair writes a certificate and its key, and prints where.
func writePair(w io.Writer, dir, name string, p pki.Pair) error {
	cert, key := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if err := pki.WritePair(cert, key, p); err != nil {
		return err
	}
	fmt.Fprintf(w, "wrote %s and %s\n", cert, key)
	return nil
}

func requestFlags(c *cobra.Command, r *pki.Request, name string) {
	c.Flags().StringVar(&r.Name, "name", name, "common name, and name of the files")
	c.Flags().DurationVar(&r.Valid, "valid", 3*365*24*time.Hour, "how long it is valid")
}

func pkiRotateCmd(dir *string) *cobra.Command {
	var name string
	var secret bool
	var step int
	c := &cobra.Command{
		Use:   "rotate --step N",
		Short: "perform the next of three steps that replace the authority without downtime",
		Long: "Perform the next of three steps that replace the authority without downtime:\n" +
			"  1. trust a new authority in addition to the old one\n  2. sign with the new one\n  3. remove the old one\n" +
			"--step must name the step that follows the last one, so that no step is performed twice by accident: the third one\n" +
			"locks out everything that trusts only the old authority. The command prints what must happen before the next step.\n" +
			"With --secret the Secret is read from stdin and printed changed.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			do := rotateFiles
			if secret {
				do = func(_, name string, step int) (string, error) {
					return rotateSecret(c.InOrStdin(), c.OutOrStdout(), name, step)
				}
			}
			todo, err := do(*dir, name, step)
			if err == nil {
				fmt.Fprintln(c.ErrOrStderr(), todo)
			}
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "warren etcd", "common name of the new authority")
	c.Flags().IntVar(&step, "step", 0, "the step to perform: 1, 2 or 3")
	_ = c.MarkFlagRequired("step") // it was declared above
	c.Flags().BoolVar(&secret, "secret", false, "read Secret "+controller.CASecret+" (YAML) from stdin, print it changed")
	return c
}

// rotate performs a step, if it is the next one.
func rotate(a pki.Authority, name string, step int) (next pki.Authority, todo string, err error) {
	want, err := a.Step()
	if err != nil {
		return a, "", err
	}
	if step != want {
		return a, "", fmt.Errorf("--step: %d: expected %d, which is the next step of this authority; nothing is changed", step, want)
	}
	return pki.Rotate(a, name)
}

func rotateFiles(dir, name string, step int) (todo string, err error) {
	file := func(n string) string { return filepath.Join(dir, n) }
	var a pki.Authority
	if a.Certs, err = os.ReadFile(file(pki.CAFile)); err != nil {
		return "", err
	}
	if a.Key, err = os.ReadFile(file(pki.CAKeyFile)); err != nil {
		return "", err
	}
	if a.Next, err = os.ReadFile(file(pki.NextKeyFile)); err != nil && !os.IsNotExist(err) {
		return "", err
	}
	next, todo, err := rotate(a, name, step)
	if err != nil {
		return "", err
	}
	// The next key first: if the process ends between the two writes, no certificate lacks its key.
	if len(next.Next) > 0 {
		if err := os.WriteFile(file(pki.NextKeyFile), next.Next, 0o600); err != nil {
			return "", err
		}
	}
	if err := pki.WritePair(file(pki.CAFile), file(pki.CAKeyFile), pki.Pair{Cert: next.Certs, Key: next.Key}); err != nil {
		return "", err
	}
	if len(next.Next) == 0 && len(a.Next) > 0 {
		return todo, os.Remove(file(pki.NextKeyFile))
	}
	return todo, nil
}

func rotateSecret(in io.Reader, out io.Writer, name string, step int) (todo string, err error) {
	text, err := io.ReadAll(io.LimitReader(in, 1<<20)) // a Secret is at most that large
	if err != nil {
		return "", err
	}
	var s corev1.Secret
	if err := yaml.Unmarshal(text, &s); err != nil {
		return "", fmt.Errorf("the Secret on stdin: %w", err)
	}
	next, todo, err := rotate(pki.Authority{Certs: s.Data[pki.CAFile], Key: s.Data[pki.CAKeyFile], Next: s.Data[pki.NextKeyFile]}, name,
		step)
	if err != nil {
		return "", fmt.Errorf("the Secret on stdin: %w", err)
	}
	s.Data = map[string][]byte{pki.CAFile: next.Certs, pki.CAKeyFile: next.Key}
	if len(next.Next) > 0 {
		s.Data[pki.NextKeyFile] = next.Next
	}
	return todo, printYAML(out, &s)
}
