package servicelb

import (
	"testing"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// conn is a connection from a Pod of this node to a Pod of another one, through a Service.
type conn struct {
	b *Balancer
}

// segment passes a segment of one end and returns the state of the flow.
func (c *conn) segment(t *testing.T, a testAddrs, d conntrack.Direction, flags uint8, seq, ack uint32, change func(*packet.Packet)) string {
	t.Helper()
	p := mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), flags)
	pass := c.b.Outbound
	if d == reply {
		p, pass = mk(packet.ProtoTCP, at(a.far, 8080), at(a.pod, 4000), flags), c.b.Inbound
	}
	seqAck(p, seq, ack)
	if change != nil {
		change(p)
	}
	if v := pass(p); v == packet.VerdictDrop {
		t.Fatalf("dropped: %v", nonzero(c.b.Stats().Dropped))
	}
	f := c.b.Flows(nil, 0)
	if len(f) != 1 {
		t.Fatalf("flows %+v", f)
	}
	return f[0].State
}

// open makes a connection in which the client expects sequence number 5011 and the server 1011: each has sent ten bytes.
func (c *conn) open(t *testing.T, a testAddrs) {
	t.Helper()
	c.segment(t, a, original, packet.SYN, 990, 0, nil) // with ten bytes, as all packets of mk
	c.segment(t, a, reply, packet.SYN|packet.ACK, 4990, 1001, nil)
	c.segment(t, a, original, packet.ACK, 1001, 5001, nil)
	c.segment(t, a, reply, packet.ACK, 5001, 1011, nil)
	if s := c.segment(t, a, original, packet.ACK, 1001, 5011, nil); s != "tcp-open" {
		t.Fatalf("%s after the handshake", s)
	}
}

// RFC 5961: a RST or FIN counts only with the sequence number that its receiver expects next, and with a correct checksum.
func TestFlow_ForgedRSTOrFIN_ChangesNothing(t *testing.T) {
	damage := func(p *packet.Packet) { p.Buf[p.L4+16] ^= 0x55 }
	fragment := func(p *packet.Packet) { p.MoreFrags = true }
	for _, flags := range []uint8{packet.RST, packet.RST | packet.ACK, packet.FIN | packet.ACK} {
		after := "tcp-reset"
		if flags&packet.FIN != 0 {
			after = "tcp-half-closed"
		}
		for name, x := range map[string]struct {
			d      conntrack.Direction
			seq    uint32
			change func(*packet.Packet)
			want   string
		}{
			"from the client, next":              {original, 1011, nil, after},
			"from the server, next":              {reply, 5011, nil, after},
			"from the client, one more":          {original, 1012, nil, "tcp-open"},
			"from the client, acknowledged":      {original, 1001, nil, "tcp-open"},
			"from the server, inside the window": {reply, 5011 + 1<<20, nil, "tcp-open"},
			"from the server, one less":          {reply, 5010, nil, "tcp-open"},
			"from the client, zero":              {original, 0, nil, "tcp-open"},
			"from the client, wrong checksum":    {original, 1011, damage, "tcp-open"},
			"from the server, wrong checksum":    {reply, 5011, damage, "tcp-open"},
			"from the client, first fragment":    {original, 1011, fragment, "tcp-open"},
		} {
			t.Run(name, func(t *testing.T) {
				eachFamily(t, func(t *testing.T, a testAddrs) {
					c := &conn{b: newBalancer(t, 64, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))}
					c.open(t, a)
					acks := [2]uint32{1011, 5011}
					if got := c.segment(t, a, x.d, flags, x.seq, acks[x.d.Opposite()], x.change); got != x.want {
						t.Errorf("flags %#x: %s, expected %s", flags, got, x.want)
					}
					if x.want == "tcp-open" { // what both ends send next is judged as if the forged segment had not existed
						if got := c.segment(t, a, x.d, packet.RST, acks[x.d], 0, nil); got != "tcp-reset" {
							t.Errorf("%s after the genuine RST", got)
						}
					}
				})
			})
		}
	}
}

// A server that ends while its data is in flight sends a RST behind that data, which the client has not acknowledged yet.
func TestFlow_RSTBehindUnacknowledgedData_Resets(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		c := &conn{b: newBalancer(t, 64, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))}
		c.open(t, a)
		for seq := uint32(5011); seq < 5051; seq += 10 {
			c.segment(t, a, reply, packet.ACK, seq, 1011, nil)
		}
		if got := c.segment(t, a, reply, packet.RST, 5051, 0, nil); got != "tcp-reset" {
			t.Errorf("%s", got)
		}
	})
}

// Both ends have data in flight, of which a segment was lost before this node and another is late. Whatever end one of them
// sends for its data is seen; one far from the data is not.
func TestFlow_DataInFlightBothWays_EndsWithGenuineRSTOrFIN(t *testing.T) {
	for _, flags := range []uint8{packet.RST, packet.RST | packet.ACK, packet.FIN | packet.ACK} {
		after := "tcp-reset"
		if flags&packet.FIN != 0 {
			after = "tcp-half-closed"
		}
		for name, x := range map[string]struct {
			d    conntrack.Direction
			seq  uint32
			want string
		}{
			"server, behind its data":            {reply, 5071, after},
			"server, inside its data":            {reply, 5051, after},
			"server, acknowledged next":          {reply, 5011, after},
			"server, a lost tail":                {reply, 5091, after},
			"server, acknowledged long ago":      {reply, 5001, "tcp-open"},
			"server, far ahead":                  {reply, 5071 + 1<<18, "tcp-open"},
			"client, behind its data":            {original, 1041, after},
			"client, acknowledged next":          {original, 1011, after},
			"client, acknowledged":               {original, 1001, "tcp-open"},
			"client, far ahead":                  {original, 1041 + 1<<18, "tcp-open"},
			"client, sequence number of another": {original, 5071 + 1<<20, "tcp-open"},
		} {
			t.Run(name, func(t *testing.T) {
				eachFamily(t, func(t *testing.T, a testAddrs) {
					c := &conn{b: newBalancer(t, 64, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))}
					c.open(t, a)
					c.segment(t, a, reply, packet.ACK, 5011, 1011, nil)
					c.segment(t, a, original, packet.ACK, 1011, 5011, nil)
					c.segment(t, a, reply, packet.ACK, 5041, 1011, nil) // 5021 is late, 5031 was lost
					c.segment(t, a, original, packet.ACK, 1031, 5011, nil)
					c.segment(t, a, reply, packet.ACK, 5021, 1011, nil)
					c.segment(t, a, reply, packet.ACK, 5061, 1011, nil)
					c.segment(t, a, original, packet.ACK, 1021, 5011, nil)
					if got := c.segment(t, a, x.d, flags, x.seq, [2]uint32{5011, 1011}[x.d], nil); got != x.want {
						t.Errorf("flags %#x: %s, expected %s", flags, got, x.want)
					}
				})
			})
		}
	}
}

// Data that a blind forger sends inside the window does not make its end an expected sequence number.
func TestFlow_ForgedDataThenRST_ChangesNothing(t *testing.T) {
	for _, ack := range []uint32{1, 5010, 5012, 5011 + 1<<20} {
		eachFamily(t, func(t *testing.T, a testAddrs) {
			c := &conn{b: newBalancer(t, 64, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))}
			c.open(t, a)
			c.segment(t, a, original, packet.ACK, 70000, ack, nil)
			for _, seq := range []uint32{70000, 70010} {
				if got := c.segment(t, a, original, packet.RST, seq, 0, nil); got != "tcp-open" {
					t.Errorf("acknowledgement %d, sequence number %d: %s", ack, seq, got)
				}
			}
		})
	}
}
