package agent

import (
	"bufio"
	"encoding/hex"
	"os"
	"slices"
	"strings"
)

// hostListeners returns the host's TCP listeners and bound UDP sockets in the steered ranges: they cannot be reached.
func hostListeners() (out []uint16) {
	for _, f := range []struct{ path, state string }{
		{"/proc/net/tcp", "0A"}, {"/proc/net/tcp6", "0A"}, {"/proc/net/udp", "07"}, {"/proc/net/udp6", "07"}} {
		file, err := os.Open(f.path)
		if err != nil {
			continue // the family is switched off
		}
		out = append(out, steeredPorts(bufio.NewScanner(file), f.state)...)
		file.Close()
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// steeredPorts reads lines like "0: 0100007F:1F90 00000000:0000 0A ..." (proc(5)).
func steeredPorts(lines *bufio.Scanner, state string) (out []uint16) {
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[3] != state {
			continue
		}
		_, port, _ := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(port)
		if err != nil || len(b) != 2 {
			continue
		}
		n := uint16(b[0])<<8 | uint16(b[1])
		for _, r := range [][2]uint16{masqueradePorts, nodePorts} {
			if n >= r[0] && n <= r[1] {
				out = append(out, n)
			}
		}
	}
	return out
}

func (a *Agent) warnListeners() {
	if ports := hostListeners(); len(ports) > 0 {
		a.log.Warn("host programs listen on ports that are steered to the tunnel and cannot be reached there", "ports", ports)
	}
}
