package lab

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// waiter takes connections and waits for bytes, without keepalive probes of its own.
const waiter = `
import socket, threading
s = socket.socket(socket.AF_INET6)
s.setsockopt(41, 26, 0)
s.bind(("", 7))
s.listen()
def wait(c):
    while c.recv(1):
        pass
while True:
    c = s.accept()[0]
    c.send(b"hello\n")
    threading.Thread(target=wait, args=(c,)).start()
`

// A connection through a Service that is deleted ends at both ends with the client's next byte: the backend, which only
// waits, does not wait for ever.
func TestServiceDeletedUnderAConnection(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := labelled(t, l, "n1", "client", "app=client")
	for name, node := range map[string]string{"near": "n1", "far": "n2"} {
		b, err := l.RunPod(t.Context(), PodSpec{Node: node, Name: name, Labels: map[string]string{"app": name}, Args: []string{"python3", "-c", waiter}})
		if err != nil {
			t.Fatal(err)
		}
		applyYAML(t, l, web(name, "app: "+name, ""))
		vip := getSvc(t, l, name).ips(t)[0]
		k := begin(t, l, in(l, client), "bash", "-c", fmt.Sprintf(`trap '' PIPE; until exec 3<>/dev/tcp/%s/7; do sleep 0.1; done; read -r x <&3; echo $x; while echo x >&3; do sleep 0.1; done`, vip))
		eventually(t, "open", func() error {
			if !strings.Contains(k.text(), "hello") {
				return errors.New(k.text())
			}
			return nil
		})
		sh(t, l, "n1", l.Exe+" delete svc "+name)
		_, _ = k.wait(t, 45e9) // it ends by an error
		eventually(t, name+" has let go", func() error {
			out, err := l.PodOutput(b, "ss", "-Htn", "state", "established")
			if strings.TrimSpace(out) != "" {
				err = errors.New(out)
			}
			return err
		})
	}
}
