package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// IngressLabel is the value of the label app of the Pods that RunIngress starts.
const IngressLabel = "warren-ingress"

// unprivileged are the words before a command that take every capability from it; none where setpriv (util-linux) is not installed.
func unprivileged() []string {
	if _, err := exec.LookPath("setpriv"); err != nil {
		return nil
	}
	return []string{"setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"}
}

// RunIngress runs `warren ingress` in a Pod, without any capability where setpriv is installed, and waits until it is ready. It listens on
// ports 8080 and 8443.
func (l *Lab) RunIngress(ctx context.Context, node, name string, flags ...string) (*Pod, error) {
	socket := "/run/warren/" + name + ".sock"
	args := slices.Concat(unprivileged(), []string{l.Exe, "ingress", "--socket", socket}, flags)
	p, err := l.RunPod(ctx, PodSpec{Node: node, Name: name, Labels: map[string]string{"app": IngressLabel}, Args: args})
	if err != nil {
		return nil, err
	}
	for {
		_, err := l.PodOutput(p, l.Exe, "lab", "get", "--timeout", "2s", "http://127.0.0.1:9571/readyz")
		if err == nil {
			return p, nil
		}
		if l.Pid(p.Node, p.process()) == 0 {
			raw, _ := os.ReadFile(l.podLog(p))
			return nil, fmt.Errorf("the ingress of Pod %s ended: %s", p.Name, tail(string(raw), 5))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the ingress of Pod %s is not ready: %w", p.Name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

const demoIngress = `apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: warren, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}
spec: {controller: warren.dev/ingress}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: echo}
spec:
  tls: [{hosts: [echo.test], secretName: echo-tls}]
  rules:
  - host: echo.test
    http:
      paths:
      - {path: /echo, pathType: Prefix, backend: {service: {name: echo, port: {number: 80}}}}
---
apiVersion: v1
kind: Service
metadata: {name: ingress}
spec:
  selector: {app: warren-ingress}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]
`

// demoHTTP runs two ingress Pods and calls the echo Service through them, by host and path, in clear text and with TLS.
func (l *Lab) demoHTTP(ctx context.Context, w io.Writer, from *Pod) error {
	nodes := l.NodeNames()
	for i, n := range nodes[:min(2, len(nodes))] {
		name := fmt.Sprintf("ingress-%d", i+1)
		if _, err := l.FindPod(name); err == nil {
			continue
		}
		p, err := l.RunIngress(ctx, n, name)
		if err != nil {
			return err
		}
		how := "with all capabilities: setpriv is not installed"
		if len(unprivileged()) > 0 {
			how = "without any capability"
		}
		fmt.Fprintf(w, "\nPod %s on %s runs `warren ingress`, %s\n", p.Name, n, how)
	}
	secret, authority, err := demoCertificate("echo-tls", "echo.test")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "$ warren lab exec %s -- warren apply -f - <<END\n%sEND\n", nodes[0], demoIngress)
	if err := l.Exec(nodes[0], Cmd{Args: []string{l.Exe, "apply", "-f", "-"}, Stdin: strings.NewReader(demoIngress + "---\n" + secret),
		Stdout: w, Stderr: w}); err != nil {
		return err
	}
	if _, err := l.PodOutput(from, "curl", "--version"); err != nil {
		fmt.Fprintln(w, "(curl is not installed: apt-get install curl)")
		return nil
	}
	for _, url := range []string{"http://echo.test/echo", "http://echo.test/other", "https://echo.test/echo"} {
		out, err := l.curl(ctx, from, url, authority)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "$ curl %s   (in Pod %s; the Service `ingress` is echo.test)\n  %s\n", url, from.Name, out)
	}
	fmt.Fprintf(w, "$ warren lab exec %s -- warren ingress route http://echo.test/echo\n", nodes[0])
	out, err := l.Output(nodes[0], l.Exe, "ingress", "route", "--socket", "/run/warren/ingress-1.sock", "http://echo.test/echo")
	fmt.Fprint(w, out)
	return err
}

// curl calls a URL with `curl`, whose host is the Service "ingress", until the ingress has the newest routes. It returns the first line of
// the body. A body of one line is that of the ingress itself.
func (l *Lab) curl(ctx context.Context, from *Pod, url, authority string) (string, error) {
	script := `ip=$(getent ahosts ingress | awk '{print $1; exit}'); printf '%s' "$CA" > /run/warren-demo-ca.pem
exec curl -sS --max-time 10 --cacert /run/warren-demo-ca.pem --connect-to "echo.test::$ip:" "$0"`
	for {
		var out, errOut strings.Builder
		err := l.ExecPod(from, Cmd{Args: []string{"sh", "-c", script, url}, Env: []string{"CA=" + authority}, Stdout: &out,
			Stderr: &errOut})
		line, _, _ := strings.Cut(out.String(), "\n")
		wants404 := strings.Contains(url, "other")
		if err == nil && strings.Contains(line, "no Ingress") == wants404 {
			return line, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("curl %s: %w: %s %s", url, err, line, errOut.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
