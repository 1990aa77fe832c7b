package runtime

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// validateNetDevices checks the names of the devices that the container takes over from
// the host (runtime-spec, config-linux.md, "Network Devices").
func validateNetDevices(l *specs.Linux) error {
	if len(l.NetDevices) == 0 {
		return nil
	}
	if !namespaceGiven(l.Namespaces, specs.NetworkNamespace) {
		return invalid("linux.netDevices", "the container shares the network namespace with the host")
	}
	taken := map[string]bool{}
	for host, d := range l.NetDevices {
		for _, name := range []string{host, d.Name} {
			if name == "" && host != "" {
				continue
			}
			if name == "" || name == "." || name == ".." || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/: \t\n\v\f\r\x00") {
				return invalid("linux.netDevices", "%q is not the name of a network device", name)
			}
		}
		if inside := nameInside(host, d); strings.Contains(inside, "%d") {
			continue // the kernel finds a number
		} else if taken[inside] {
			return invalid("linux.netDevices", "two devices are called %q in the container", inside)
		} else {
			taken[inside] = true
		}
	}
	return nil
}

func nameInside(host string, d specs.LinuxNetDevice) string {
	if d.Name != "" {
		return d.Name
	}
	return host
}

// moveNetDevices moves devices from our network namespace to that of pid, with their
// permanent global addresses, which the kernel forgets on the way, and brings them up.
func moveNetDevices(pid int, devices map[string]specs.LinuxNetDevice) error {
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return fail.New(fail.Internal, "linux.netDevices: %w", err)
	}
	defer ns.Close()
	here, err := openRoute(nil)
	if err != nil {
		return fail.New(fail.Internal, "linux.netDevices: %w", err)
	}
	defer here.close()
	there, err := openRoute(ns)
	if err != nil {
		return fail.New(fail.Internal, "linux.netDevices: %w", err)
	}
	defer there.close()
	names := make([]string, 0, len(devices))
	for name := range devices {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := moveNetDevice(here, there, ns, name, nameInside(name, devices[name])); err != nil {
			class := fail.Invalid
			if errors.Is(err, unix.ENODEV) {
				class = fail.NotFound
			}
			return fail.New(class, "linux.netDevices: %s: %w", name, err)
		}
	}
	return nil
}

func moveNetDevice(here, there *route, ns *os.File, name, inside string) error {
	index, err := here.index(name)
	if err != nil {
		return err
	}
	addresses, err := here.addresses(index)
	if err != nil {
		return err
	}
	before, err := there.links()
	if err != nil {
		return err
	}
	// With the name in the same message, the device has never another one inside.
	move := linkMessage(unix.RTM_NEWLINK, index, 0, 0)
	move.attribute(unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(ns.Fd())))
	move.attribute(unix.IFLA_IFNAME, append([]byte(inside), 0))
	if err := here.do(move); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return fail.New(fail.Conflict, "the container has a network device %s already", inside)
		}
		return err
	}
	after, err := there.links()
	if err != nil {
		return err
	}
	// It keeps its number unless that is taken.
	if slices.Contains(before, index) || !slices.Contains(after, index) {
		after = slices.DeleteFunc(after, func(i int32) bool { return slices.Contains(before, i) })
		if len(after) == 0 {
			return unix.ENODEV
		}
		index = after[len(after)-1]
	}
	for _, a := range addresses {
		if err := there.do(a.message(index)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return there.do(linkMessage(unix.RTM_NEWLINK, index, unix.IFF_UP, unix.IFF_UP))
}

// route is a routing socket in some network namespace (rtnetlink(7)).
type route struct{ fd int }

// openRoute opens a socket in the namespace ns; nil is our own.
func openRoute(ns *os.File) (*route, error) {
	open := func() (*route, error) {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		return &route{fd}, nil
	}
	if ns == nil {
		return open()
	}
	type result struct {
		r   *route
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, os.NewSyscallError("setns", err)}
			return
		}
		r, err := open()
		done <- result{r, err}
	}()
	r := <-done
	return r.r, r.err
}

func (r *route) close() { unix.Close(r.fd) }

// netMessage is a request: a header, a fixed structure and attributes.
type netMessage struct {
	kind  uint16
	flags uint16
	body  []byte
}

func (m *netMessage) attribute(kind uint16, value []byte) {
	m.body = binary.NativeEndian.AppendUint16(m.body, uint16(unix.SizeofRtAttr+len(value)))
	m.body = binary.NativeEndian.AppendUint16(m.body, kind)
	m.body = append(m.body, value...)
	for len(m.body)%unix.NLMSG_ALIGNTO != 0 {
		m.body = append(m.body, 0)
	}
}

// linkMessage is about one device, or all if index is 0.
func linkMessage(kind uint16, index int32, flags, change uint32) *netMessage {
	body := make([]byte, 4, 64) // family, padding, type: unspecified
	body = binary.NativeEndian.AppendUint32(body, uint32(index))
	body = binary.NativeEndian.AppendUint32(body, flags)
	body = binary.NativeEndian.AppendUint32(body, change)
	return &netMessage{kind: kind, flags: unix.NLM_F_ACK, body: body}
}

// do sends a request and waits for its acknowledgement.
func (r *route) do(m *netMessage) error {
	_, err := r.ask(m)
	return err
}

// ask sends a request and collects the answers.
func (r *route) ask(m *netMessage) ([]syscall.NetlinkMessage, error) {
	const header = unix.SizeofNlMsghdr
	packet := binary.NativeEndian.AppendUint32(nil, uint32(header+len(m.body)))
	packet = binary.NativeEndian.AppendUint16(packet, m.kind)
	packet = binary.NativeEndian.AppendUint16(packet, unix.NLM_F_REQUEST|m.flags)
	packet = append(packet, make([]byte, 8)...) // sequence and port: there is one question at a time
	packet = append(packet, m.body...)
	if err := unix.Sendto(r.fd, packet, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var answers []syscall.NetlinkMessage
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(r.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		list, err := syscall.ParseNetlinkMessage(slices.Clone(buf[:n]))
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			switch a.Header.Type {
			case unix.NLMSG_DONE:
				return answers, nil
			case unix.NLMSG_ERROR:
				if len(a.Data) < 4 {
					return nil, unix.EBADMSG
				}
				if code := int32(binary.NativeEndian.Uint32(a.Data)); code != 0 {
					return nil, syscall.Errno(-code)
				}
				return answers, nil
			}
			answers = append(answers, a)
		}
	}
}

// index finds a device by its name.
func (r *route) index(name string) (int32, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(r.fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return int32(req.Uint32()), nil
}

// links lists the numbers of all devices.
func (r *route) links() ([]int32, error) {
	m := linkMessage(unix.RTM_GETLINK, 0, 0, 0)
	m.flags = unix.NLM_F_DUMP
	answers, err := r.ask(m)
	if err != nil {
		return nil, err
	}
	var list []int32
	for _, a := range answers {
		if len(a.Data) >= unix.SizeofIfInfomsg {
			list = append(list, int32(binary.NativeEndian.Uint32(a.Data[4:])))
		}
	}
	return list, nil
}

// address is one of a device's: struct ifaddrmsg without the index, and its attributes.
type address struct {
	head  [4]byte // family, prefix length, flags, scope
	attrs []byte
}

// addresses lists the permanent ones of global scope.
func (r *route) addresses(index int32) ([]address, error) {
	answers, err := r.ask(&netMessage{kind: unix.RTM_GETADDR, flags: unix.NLM_F_DUMP, body: make([]byte, unix.SizeofIfAddrmsg)})
	if err != nil {
		return nil, err
	}
	var list []address
	for _, a := range answers {
		if len(a.Data) < unix.SizeofIfAddrmsg || int32(binary.NativeEndian.Uint32(a.Data[4:])) != index {
			continue
		}
		if flags, scope := a.Data[2], a.Data[3]; flags&unix.IFA_F_PERMANENT == 0 || scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		one := address{head: [4]byte(a.Data)}
		attrs, err := syscall.ParseNetlinkRouteAttr(&a)
		if err != nil {
			return nil, err
		}
		copied := new(netMessage)
		for _, attr := range attrs {
			switch attr.Attr.Type {
			case unix.IFA_ADDRESS, unix.IFA_LOCAL, unix.IFA_BROADCAST:
				copied.attribute(attr.Attr.Type, attr.Value)
			}
		}
		one.attrs = copied.body
		list = append(list, one)
	}
	return list, nil
}

// message adds the address to a device.
func (a address) message(index int32) *netMessage {
	body := append(make([]byte, 0, 64), a.head[:]...)
	body = binary.NativeEndian.AppendUint32(body, uint32(index))
	return &netMessage{kind: unix.RTM_NEWADDR, flags: unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL, body: append(body, a.attrs...)}
}
