// Azure's go-amqp, as its users use it, against a broker on 127.0.0.1.
//
// main PORT [TEST...] runs the tests one by one, prints what fails and exits 1
// if something did.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/go-amqp"
)

const patience = 20 * time.Second

var (
	port string
	ctx  context.Context
)

type test struct {
	name string
	run  func()
}

var tests = []test{
	{"bodies", bodies},
	{"settle_modes", settleModes},
	{"second", second},
	{"outcomes", outcomes},
	{"credit", credit},
	{"hoarding", hoarding},
	{"large", large},
	{"small_frames", smallFrames},
	{"sessions", sessions},
	{"dynamic", dynamic},
	{"unsettled_detach", unsettledDetach},
	{"wrong_password", wrongPassword},
	{"too_large", tooLarge},
	{"parallel", parallel},
}

func main() {
	port = os.Args[1]
	failures := 0
	for _, t := range tests {
		if len(os.Args) > 2 && !slices.Contains(os.Args[2:], t.name) {
			continue
		}
		begun := time.Now()
		if why := guarded(t.run); why != nil {
			failures++
			fmt.Printf("FAIL %s: %v\n", t.name, why)
		}
		if os.Getenv("VERBOSE") != "" {
			fmt.Printf("%s %.2f s\n", t.name, time.Since(begun).Seconds())
		}
	}
	if failures > 0 {
		os.Exit(1)
	}
}

func guarded(run func()) (why any) {
	var cancel context.CancelFunc

	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer func() { why = recover() }()
	run()
	return nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(condition bool, format string, words ...any) {
	if !condition {
		panic(fmt.Sprintf(format, words...))
	}
}

// refused wants an error that names the condition.
func refused(err error, condition amqp.ErrCond, what string) {
	var link *amqp.LinkError
	var plain *amqp.Error

	switch {
	case errors.As(err, &link) && link.RemoteErr != nil:
		plain = link.RemoteErr
	case errors.As(err, &plain):
	default:
		panic(fmt.Sprintf("%s: %v, not %s", what, err, condition))
	}
	check(plain.Condition == condition, "%s: %v, not %s", what, plain,
		condition)
	check(plain.Description != "", "%s: no text", what)
}

func dial(options *amqp.ConnOptions) *amqp.Conn {
	c, err := amqp.Dial(ctx, "amqp://127.0.0.1:"+port, options)
	must(err)
	return c
}

func open(options *amqp.ConnOptions) (*amqp.Conn, *amqp.Session) {
	c := dial(options)
	s, err := c.NewSession(ctx, nil)
	must(err)
	return c, s
}

func sender(s *amqp.Session, address string, o *amqp.SenderOptions) *amqp.Sender {
	l, err := s.NewSender(ctx, address, o)
	must(err)
	return l
}

func receiver(s *amqp.Session, address string, o *amqp.ReceiverOptions) *amqp.Receiver {
	l, err := s.NewReceiver(ctx, address, o)
	must(err)
	return l
}

func send(s *amqp.Session, address string, bodies ...string) {
	l := sender(s, address, nil)
	for _, body := range bodies {
		must(l.Send(ctx, text(body), nil))
	}
	must(l.Close(ctx))
}

func text(body string) *amqp.Message {
	return amqp.NewMessage([]byte(body))
}

func take(r *amqp.Receiver) *amqp.Message {
	m, err := r.Receive(ctx, nil)
	must(err)
	return m
}

func taken(r *amqp.Receiver, body string) *amqp.Message {
	m := take(r)
	check(string(m.GetData()) == body, "%q, not %q", m.GetData(), body)
	return m
}

// nothing: the queue has no more.  What is sent after it would come first.
func nothing(s *amqp.Session, address string) {
	send(s, address, "the end")
	r := receiver(s, address, nil)
	must(r.AcceptMessage(ctx, taken(r, "the end")))
	must(r.Close(ctx))
}

// ---- messages ----

func bodies() {
	c, s := open(nil)
	defer c.Close()
	r := receiver(s, "g.bodies", nil)
	l := sender(s, "g.bodies", nil)
	now := time.Now().Truncate(time.Millisecond).UTC()
	sent := []*amqp.Message{
		text(""),
		{Data: [][]byte{[]byte("one"), []byte("two"), {}}},
		{Value: "a string"},
		{Value: int64(-5)},
		{Value: map[string]any{"k": []any{"list", true, 1.5}}},
		{Sequence: [][]any{{"a", int32(1)}, {now}}},
		{Value: amqp.UUID{1, 2, 3}},
	}
	for i, m := range sent {
		id := any(fmt.Sprintf("id-%d", i))
		if i%2 == 1 {
			id = uint64(i)
		}
		subject := "s"
		m.Header = &amqp.MessageHeader{Durable: true, Priority: 9,
			TTL: time.Hour}
		m.Properties = &amqp.MessageProperties{MessageID: id,
			Subject: &subject, CreationTime: &now}
		m.ApplicationProperties = map[string]any{"n": int32(i),
			"t": now, "u": uint8(7)}
		m.Annotations = amqp.Annotations{"x-opt-a": "b"}
		m.Footer = amqp.Annotations{"x-opt-foot": int64(1)}
		must(l.Send(ctx, m, nil))
	}
	for i, wanted := range sent {
		m := take(r)
		must(r.AcceptMessage(ctx, m))
		check(reflect.DeepEqual(m.Value, wanted.Value), "value %d: %v",
			i, m.Value)
		check(fmt.Sprint(m.Sequence) == fmt.Sprint(wanted.Sequence),
			"sequence %d: %v", i, m.Sequence)
		check(bytes.Equal(bytes.Join(m.Data, []byte("|")),
			bytes.Join(wanted.Data, []byte("|"))), "data %d: %v", i,
			m.Data)
		check(m.Properties.MessageID == wanted.Properties.MessageID &&
			*m.Properties.Subject == "s" &&
			m.Properties.CreationTime.Equal(now),
			"properties %d: %v", i, m.Properties)
		check(fmt.Sprint(m.ApplicationProperties) ==
			fmt.Sprint(wanted.ApplicationProperties),
			"application %d: %v", i, m.ApplicationProperties)
		check(m.Annotations["x-opt-a"] == "b", "annotations %d: %v", i,
			m.Annotations)
		check(m.Footer["x-opt-foot"] == int64(1), "footer %d: %v", i,
			m.Footer)
		check(m.Header.Priority == 9 && m.Header.TTL == time.Hour &&
			m.Header.Durable, "header %d: %v", i, m.Header)
	}
}

func large() {
	c, s := open(nil)
	defer c.Close()
	r := receiver(s, "g.large", nil)
	l := sender(s, "g.large", nil)
	for _, size := range []int{0, 1, 100 << 10, 100<<10 + 1, 20 << 20} {
		data := make([]byte, size)
		rand.Read(data)
		must(l.Send(ctx, amqp.NewMessage(data), nil))
		m := take(r)
		check(bytes.Equal(m.GetData(), data), "%d bytes differ", size)
		must(r.AcceptMessage(ctx, m))
	}
}

func smallFrames() {
	c, s := open(&amqp.ConnOptions{MaxFrameSize: 512})
	defer c.Close()
	r := receiver(s, "g.frames", nil)
	l := sender(s, "g.frames", nil)
	data := bytes.Repeat([]byte("0123456789"), 50000)
	must(l.Send(ctx, amqp.NewMessage(data), nil))
	m := take(r)
	check(bytes.Equal(m.GetData(), data), "the bytes differ")
	must(r.AcceptMessage(ctx, m))
}

// ---- settlement ----

func settleModes() {
	c, s := open(nil)
	defer c.Close()
	for _, sm := range []amqp.SenderSettleMode{amqp.SenderSettleModeUnsettled,
		amqp.SenderSettleModeSettled, amqp.SenderSettleModeMixed} {
		for _, rm := range []amqp.ReceiverSettleMode{
			amqp.ReceiverSettleModeFirst,
			amqp.ReceiverSettleModeSecond} {
			address := fmt.Sprintf("g.settle.%d.%d", sm, rm)
			l := sender(s, address,
				&amqp.SenderOptions{SettlementMode: &sm})
			for i := range 20 {
				must(l.Send(ctx, text(fmt.Sprint(i)),
					&amqp.SendOptions{Settled: i%2 == 0 &&
						sm != amqp.SenderSettleModeUnsettled}))
			}
			r := receiver(s, address, &amqp.ReceiverOptions{
				SettlementMode:            &rm,
				RequestedSenderSettleMode: &sm})
			for i := range 20 {
				m := taken(r, fmt.Sprint(i))
				must(r.AcceptMessage(ctx, m))
			}
			must(r.Close(ctx))
			nothing(s, address)
		}
	}
}

// second: the receiver settles after the broker has; AcceptMessage returns
// when the broker has said so.
func second() {
	c, s := open(nil)
	defer c.Close()
	mode := amqp.ReceiverSettleModeSecond
	l := sender(s, "g.second",
		&amqp.SenderOptions{RequestedReceiverSettleMode: &mode})
	for i := range 100 {
		must(l.Send(ctx, text(fmt.Sprint(i)), nil))
	}
	r := receiver(s, "g.second", &amqp.ReceiverOptions{
		SettlementMode: &mode, Credit: 100})
	var wait sync.WaitGroup
	for i := range 100 {
		m := taken(r, fmt.Sprint(i))
		wait.Add(1)
		go func() {
			defer wait.Done()
			switch i % 4 {
			case 0:
				must(r.ReleaseMessage(ctx, m))
			default:
				must(r.AcceptMessage(ctx, m))
			}
		}()
	}
	wait.Wait()
	must(r.Close(ctx))
	r = receiver(s, "g.second", &amqp.ReceiverOptions{Credit: 100})
	for range 25 {
		must(r.AcceptMessage(ctx, take(r)))
	}
	must(r.Close(ctx))
	nothing(s, "g.second")
}

func outcomes() {
	c, s := open(nil)
	defer c.Close()
	send(s, "g.outcomes", "m")
	r := receiver(s, "g.outcomes", nil)
	m := taken(r, "m")
	must(r.ReleaseMessage(ctx, m))
	m = taken(r, "m")
	check(m.Header == nil || m.Header.DeliveryCount == 0, "released: %v",
		m.Header)
	must(r.ModifyMessage(ctx, m, &amqp.ModifyMessageOptions{
		DeliveryFailed: true,
		Annotations:    amqp.Annotations{"x-opt-why": "busy"}}))
	m = taken(r, "m")
	check(m.Header.DeliveryCount == 1, "modified: %v", m.Header)
	check(m.Annotations["x-opt-why"] == "busy", "annotations: %v",
		m.Annotations)
	must(r.RejectMessage(ctx, m, &amqp.Error{
		Condition: amqp.ErrCondInvalidField, Description: "bad"}))
	dead := receiver(s, "DLQ", nil)
	must(dead.AcceptMessage(ctx, taken(dead, "m")))
	must(r.Close(ctx))
	nothing(s, "g.outcomes")
}

// unsettledDetach: what a receiver holds comes back when it leaves.
func unsettledDetach() {
	c, s := open(nil)
	defer c.Close()
	for i := range 50 {
		send(s, "g.detach", fmt.Sprint(i))
	}
	for range 3 {
		r := receiver(s, "g.detach", &amqp.ReceiverOptions{Credit: 50})
		for i := range 50 {
			taken(r, fmt.Sprint(i))
		}
		must(r.Close(ctx))
	}
	r := receiver(s, "g.detach", &amqp.ReceiverOptions{Credit: 50})
	for i := range 50 {
		must(r.AcceptMessage(ctx, taken(r, fmt.Sprint(i))))
	}
	must(r.Close(ctx))
	nothing(s, "g.detach")
}

// ---- flow ----

func credit() {
	c, s := open(nil)
	defer c.Close()
	for i := range 30 {
		send(s, "g.credit", fmt.Sprint(i))
	}
	r := receiver(s, "g.credit", &amqp.ReceiverOptions{Credit: -1})
	next := 0
	for _, n := range []int{1, 4, 25} {
		must(r.IssueCredit(uint32(n)))
		for range n {
			must(r.AcceptMessage(ctx, taken(r, fmt.Sprint(next))))
			next++
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		m, err := r.Receive(short, nil)
		cancel()
		check(m == nil && err != nil, "a message without credit")
	}
}

// hoarding: a receiver that settles nothing gets 128 MiB and no more, however
// much credit it grants, and goes on once it settles.
func hoarding() {
	const count, size, most = 1500, 100000, 128<<20/100000 + 20
	var held []*amqp.Message

	c, s := open(nil)
	defer c.Close()
	l := sender(s, "g.hoarding", nil)
	body := make([]byte, size)
	var wait sync.WaitGroup
	for range 50 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for range count / 50 {
				must(l.Send(ctx, amqp.NewMessage(body), nil))
			}
		}()
	}
	wait.Wait()
	r := receiver(s, "g.hoarding", &amqp.ReceiverOptions{Credit: 2 * count})
	for {
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		m, err := r.Receive(short, nil)
		cancel()
		if err != nil {
			break
		}
		held = append(held, m)
	}
	check(len(held) > most-40 && len(held) <= most,
		"%d messages, not about %d", len(held), most-20)
	for _, m := range held {
		must(r.AcceptMessage(ctx, m))
	}
	for range count - len(held) {
		must(r.AcceptMessage(ctx, take(r)))
	}
	must(r.Close(ctx))
	nothing(s, "g.hoarding")
}

// ---- connections ----

func sessions() {
	c := dial(nil)
	defer c.Close()
	var all []*amqp.Session
	for i := range 200 {
		s, err := c.NewSession(ctx, nil)
		must(err)
		send(s, "g.sessions", fmt.Sprint(i))
		all = append(all, s)
	}
	for _, s := range all[1:] {
		must(s.Close(ctx))
	}
	r := receiver(all[0], "g.sessions", &amqp.ReceiverOptions{Credit: 200})
	for i := range 200 {
		must(r.AcceptMessage(ctx, taken(r, fmt.Sprint(i))))
	}
}

func dynamic() {
	c, s := open(nil)
	defer c.Close()
	r := receiver(s, "", &amqp.ReceiverOptions{DynamicAddress: true})
	check(r.Address() != "", "no address")
	send(s, r.Address(), "to a temporary queue")
	must(r.AcceptMessage(ctx, taken(r, "to a temporary queue")))
	l := sender(s, "", nil)
	m := text("relayed")
	address := r.Address()
	m.Properties = &amqp.MessageProperties{To: &address}
	must(l.Send(ctx, m, nil))
	must(r.AcceptMessage(ctx, taken(r, "relayed")))
	err := l.Send(ctx, text("to nobody"), nil)
	refused(err, amqp.ErrCondInvalidField, "a message without `to`")
	_, err = s.NewReceiver(ctx, "g.selected", &amqp.ReceiverOptions{
		Filters: []amqp.LinkFilter{amqp.NewSelectorFilter("a = 1")}})
	refused(err, amqp.ErrCondNotImplemented, "a selector")
}

func wrongPassword() {
	_, err := amqp.Dial(ctx, "amqp://127.0.0.1:"+port, &amqp.ConnOptions{
		SASLType: amqp.SASLTypePlain("ann", "wrong")})
	check(err != nil && strings.Contains(err.Error(), "SASL"), "%v", err)
	c, s := open(&amqp.ConnOptions{
		SASLType: amqp.SASLTypePlain("ann", "right")})
	send(s, "g.ann", "m")
	must(c.Close())
}

// tooLarge: above limits.message_size, which the test's broker has at 32 MiB.
func tooLarge() {
	c, s := open(nil)
	defer c.Close()
	l := sender(s, "g.huge", nil)
	check(l.MaxMessageSize() == 32<<20, "max-message-size %d",
		l.MaxMessageSize())
	err := l.Send(ctx, amqp.NewMessage(make([]byte, 33<<20)), nil)
	check(err != nil, "33 MiB were taken")
	nothing(s, "g.huge")
}

func parallel() {
	const senders, each = 20, 500
	c, s := open(nil)
	defer c.Close()
	r := receiver(s, "g.parallel", &amqp.ReceiverOptions{Credit: 1000})
	l := sender(s, "g.parallel", nil)
	for i := range senders {
		go func() {
			for n := range each {
				must(l.Send(ctx, text(fmt.Sprint(i*each+n)), nil))
			}
		}()
	}
	seen := map[string]bool{}
	for range senders * each {
		m := take(r)
		check(!seen[string(m.GetData())], "%s twice", m.GetData())
		seen[string(m.GetData())] = true
		must(r.AcceptMessage(ctx, m))
	}
	must(r.Close(ctx))
	nothing(s, "g.parallel")
}
