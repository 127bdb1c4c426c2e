package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/text"
)

// Demo runs an echo Pod on every node, calls each Pod from each other one, through a Service and through an Ingress, and shows the state
// of WireGuard.
func (l *Lab) Demo(ctx context.Context, w io.Writer) error {
	var pods []*Pod
	for _, n := range l.NodeNames() {
		name := "echo-" + n
		p, err := l.FindPod(name)
		if err != nil {
			if p, err = l.RunPod(ctx, PodSpec{Node: n, Name: name, Labels: map[string]string{"app": "echo"}}); err != nil {
				return err
			}
		}
		fmt.Fprintf(w, "Pod %-9s on %s: %s\n", p.Name, n, text.Join(p.Addresses, " "))
		pods = append(pods, p)
	}
	fmt.Fprintln(w, "\nevery Pod calls every Pod (HTTP; the answer names the client's address, which is kept):")
	for _, from := range pods {
		for _, to := range pods {
			if err := l.call1(w, from, to); err != nil {
				return err
			}
		}
	}
	first := l.NodeNames()[0]
	if err := l.demoService(ctx, w, first, pods); err != nil {
		return err
	}
	if err := l.demoHTTP(ctx, w, pods[0]); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n$ warren lab exec %s -- wg show\n", first)
	out, err := l.Output(first, "wg", "show")
	if err != nil {
		fmt.Fprintf(w, "(wg is not installed: apt-get install wireguard-tools)\n")
	} else {
		fmt.Fprint(w, out)
	}
	fmt.Fprintf(w, "\n$ warren lab status\n")
	if err := l.Summary(ctx, w, "text"); err != nil {
		return err
	}
	fmt.Fprint(w, `
Next:
  bin/warren lab pod run n1 shell -- sleep inf
  bin/warren lab pod exec shell -- curl -s http://echo/
  bin/warren lab exec n1 -- $PWD/bin/warren services
  bin/warren lab exec n1 -- $PWD/bin/warren ingress routes --socket /run/warren/ingress-1.sock
  bin/warren lab exec n1 -- tcpdump -ni eth0 -c 5
  bin/warren lab cut n1 n2; bin/warren lab status; bin/warren lab heal
  bin/warren lab down
`)
	return nil
}

const demoService = `apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  selector: {app: echo}
  ports: [{port: 80}]
`

// demoService makes a Service of the Pods and calls it by name.
func (l *Lab) demoService(ctx context.Context, w io.Writer, node string, pods []*Pod) error {
	fmt.Fprintf(w, "\n$ warren lab exec %s -- warren apply -f - <<END\n%sEND\n", node, demoService)
	if err := l.Exec(node, Cmd{Args: []string{l.Exe, "apply", "-f", "-"}, Stdin: strings.NewReader(demoService), Stdout: w,
		Stderr: w}); err != nil {
		return err
	}
	fmt.Fprintln(w, "every Pod calls the Service by its name, three times:")
	for _, p := range pods {
		for range 3 {
			out, err := l.callName(ctx, p, "http://echo/")
			if err != nil {
				return err
			}
			line, _, _ := strings.Cut(out, "\n")
			fmt.Fprintf(w, "  %s -> http://echo/ %s\n", p.Name, line)
		}
	}
	return nil
}

// callName calls a Service by name until the name resolves.
func (l *Lab) callName(ctx context.Context, p *Pod, url string) (string, error) {
	for {
		out, err := l.PodOutput(p, l.Exe, "lab", "get", "--timeout", "5s", url)
		if err == nil || ctx.Err() != nil {
			return out, err
		}
		if !strings.Contains(err.Error(), "no such host") && !strings.Contains(err.Error(), "refused") {
			return "", err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (l *Lab) call1(w io.Writer, from, to *Pod) error {
	for _, a := range to.Addresses {
		out, err := l.PodOutput(from, l.Exe, "lab", "get", "http://"+host(a)+"/")
		if err != nil {
			return err
		}
		line, _, _ := strings.Cut(out, "\n")
		fmt.Fprintf(w, "  %s -> %-24s %s\n", from.Name, a, line)
	}
	return nil
}

// host formats an address as the host of a URL.
func host(a netip.Addr) string {
	return strings.TrimSuffix(net.JoinHostPort(a.String(), ""), ":")
}
