//! The stories of the builtin corpus: twenty-four plots, each a title and paragraphs as templates of
//! [`super::grammar`]. `{h}` is the hero, `{f}` a friend, `{e}` an elder; other variables are bound by the plot.

/// A story's plan.
pub struct Plot {
    pub title: &'static str,
    /// Variables settled once a story: name, pool.
    pub bind: &'static [(&'static str, &'static str)],
    /// Templates, one a paragraph.
    pub paragraphs: &'static [&'static str],
}

pub const PLOTS: &[Plot] = &[
    Plot {
        title: "[{^h} and the lost {toy}|The lost {toy}|Where is the {toy}?]",
        bind: &[("toy", "toy"), ("place", "place"), ("spot", "hiding")],
        paragraphs: &[
            "{#opening} [Of all the things {h} owned, {h.he} loved {h.his} {toy} the most.|{^h} had {a toy}, and {h.he} took it everywhere.|{^h.his} favorite thing in the world was {a toy}, a present from {e}.]",
            "{#one day}, {h} [looked for the {toy}|wanted to play with the {toy}], but it was [gone|not there|nowhere to be found]. {^h?} looked {#hiding} and {#hiding}. {^h?} even looked {#hiding}. There was no {toy}. {^h} [sat down and cried|felt {#sad}|did not know what to do].",
            "[Just then|At that moment], {f} came by. \"Why are you [so sad|crying|looking so sad]?\" {f} {#asked}. \"I have lost my {toy},\" {#said} {h}. \"[Do not worry|Do not cry|Cheer up],\" said {f}. \"[We will find it together|Two can look better than one|I will help you look]. Where did you play with it last?\"",
            "{^h} thought [hard|for a moment|about it]. \"I was {place},\" {h.he} said. So they [went|ran|walked] back to {place.the}. {#sky} {^f} looked to the left, and {h} looked to the right. [They looked up and they looked down.|They asked everyone they met.|They searched and searched.]",
            "{^#at last}, {f} [cried|shouted], \"[Look|Come here|Here it is]!\" There was the {toy}, {spot}. [It was a bit dirty, but it was not broken.|It was wet, but {h} did not mind.|The wind must have carried it there.] {^h} was {#happy}. {#thanks} {#end f}",
        ],
    },
    Plot {
        title: "[{^h} learns to {skill}|{^h} and the hard lesson|How {h} learned to {skill}]",
        bind: &[("skill", "skill"), ("place", "place"), ("days", "days")],
        paragraphs: &[
            "{#opening} {^h} [wanted to {skill} more than anything else|had one big wish: {h.he} wanted to {skill}|dreamed of {skill.ing}]. [All the others could do it|Everyone else seemed to know how|{^f} could do it so well], but {h} could not.",
            "{#one day}, {h} tried [to {skill}|it] for the first time. It [did not go well|went all wrong|was much harder than it looked]. Some of the others laughed. {^h} felt {#sad} and went home. \"I will never learn it,\" {h.he} [said|thought|sighed].",
            "{^e} [saw {h.his} face|heard this|was sitting by the window] and {#asked}, \"What is the matter?\" {^h} told {e.him} everything. \"When I was young,\" said {e}, \"I could not {skill} either. I tried every day. [I fell, and I got up again|Nobody learns it in a day|That is the whole secret]. Come, I will show you.\"",
            "So every [morning|afternoon|evening] they went out together {place}. {#sky} The first day was bad. The second day was [a little better|not much better]. {^h} [wanted to give up|was {#tired}|made many mistakes], but {e} only {#said}, \"[Once more|Try again|Slowly, slowly].\"",
            "After {days} days, something happened. {^h} [took a deep breath|closed {h.his} eyes|counted to three] and [tried again|tried once more], and this time it worked. \"[I can do it|Look at me|I did it]!\" {h} {#cried}. {^f} came running and {#cried}, \"[Hooray|Well done], {h}!\" [{^h} had learned that it is never too late to try again.|{^h} knew now that even {a #small} {h.kind} can learn big things.|Since then, {h} always tries once more before giving up.] {#end e}",
        ],
    },
    Plot {
        title: "[The last {food}|{^h} shares {a food}|{^h} and the hungry stranger]",
        bind: &[("food", "food"), ("place", "place"), ("gift", "gift")],
        paragraphs: &[
            "{#opening} {#one day}, {e} gave {h} {a food}. \"[This is for you|Take it with you], but do not eat it all at once,\" {e} said. {^h} [thanked {e.him}|said thank you] and [went on {h.his} way|put it into {h.his} bag|set off].",
            "{^h} walked until {h.he} came to a good spot {place}. {#sky} {^h?} was [hungry|very hungry], and the {food} smelled [so good|wonderful|sweet]. {^h?} sat down and was just about to [eat|take a bite].",
            "Then {h} saw {a #small} {f.kind} under a tree. [It was {f}.|{^f.his} name was {f}.] {^f} looked {#tired} and cold. \"[Are you all right|What is wrong]?\" {h} {#asked}. \"I have walked [all day|all night|such a long way], and I have had nothing to eat,\" {#said} {f}.",
            "{^h} looked at the {food}. [It was not very big.|{^h.he} was so hungry.] But then {h.he} looked at {f}, and {h.he} [broke it in two|gave {f} half of it|shared it with {f}]. \"Here,\" said {h}. \"[There is enough for both of us|Half is better than nothing|It tastes better with a friend].\"",
            "They ate together and talked [about the sea|about the stars|about this and that|about far away places], and the {food} [was the best {h} had ever tasted|tasted better than any before]. {^#next day}, {h} found {a gift} in front of {h.his} door. There was a note with it. It said, \"Thank you for sharing. Your friend, {f}.\" [And {h} thought, \"A good friend is worth more than gold.\"|{^h} understood that sharing makes two people happy.|\"[Being kind makes me happy too|I got back more than I gave],\" {h} thought.]",
        ],
    },
    Plot {
        title: "[The storm|{^h} and the big storm|Rain over the hill]",
        bind: &[("place", "place"), ("game", "game")],
        paragraphs: &[
            "{#opening} {#meet f} {#one day}, the two of them went to play {place}. {#sky} They played {game}, and they did not look at the sky.",
            "[Slowly|Little by little] the clouds grew [dark|black|gray]. The wind [began to blow|blew harder and harder]. Then came [the first drops of rain|a flash of light|a loud clap of thunder]. \"[Oh no|Oh dear]!\" {#cried} {h}. \"We are too far from home.\" {^h} was {#scared}.",
            "\"Quick, [follow me|take my hand|this way]!\" said {f}. They ran [as fast as they could|across the grass|through the rain] until they found [a small cave|an old barn|a hollow tree|an empty hut]. Inside it was [dry|dark but dry|warm and dry]. They sat [close together|side by side] and listened to the rain.",
            "\"I do not like thunder,\" said {h} {#softly}. \"[Neither do I|I know a trick],\" said {f}. \"Let us [sing a song|tell each other stories|count between the flash and the thunder].\" So they did, and [soon {h} forgot to be afraid|the storm did not seem so bad any more|{h} even laughed].",
            "{^#later}, the rain stopped. They [looked|stepped|peeped] outside, and there was a [big|wide|bright] rainbow over {place.the}. \"[Look|How beautiful]!\" said {h}. \"[The storm has left us a present|It was worth getting wet|I am glad that we waited].\" {#end f}",
        ],
    },
    Plot {
        title: "[The broken {broken}|{^h} and the broken {broken}|{^h} tells the truth]",
        bind: &[("broken", "broken"), ("chore", "chore"), ("toy", "toy")],
        paragraphs: &[
            "{#opening} {#one day}, {h} was playing with {h.his} {toy} in the house of {e}. \"Be careful,\" {e} had said, but {h} [forgot|was having too much fun|did not listen].",
            "Crash! {^e.his} {broken} [was broken|fell over and broke|lay on the floor in pieces]. {^h}'s heart [beat fast|sank]. [Nobody had seen it.|There was nobody else in the room.] \"I could say that [the cat did it|it was the wind],\" {h.he} thought. {^h?} [hid the pieces|put the pieces {#hiding}] and went outside.",
            "But {h} could not [play|eat|smile] any more. {^h.his} tummy felt [heavy|strange|like a stone]. [{^f} asked {h.him} to play {#game}, but {h} only shook {h.his} head.|All evening {h.he} thought about the {broken}.|That night {h.he} could not sleep.]",
            "{^#at last}, {h} went to {e}. \"I [must|have to] tell you something,\" {h.he} said. \"I broke your {broken}, and then I hid it. I am [so|very] sorry.\" {^e} [was silent for a moment|looked at {h.him} for a long time]. Then {e.he} said, \"[It was only a thing|A {broken} can be mended]. Thank you for [telling the truth|being honest]. That was [brave|not easy].\"",
            "They [took some glue and mended the {broken} together|looked at the pieces and found that it could be mended|mended it as well as they could]. To help, {h} {chore.past} [for {e}|for a whole week|all afternoon]. [{^h.his} tummy felt light again.|And {h} could eat and laugh again.] [{^h} had learned that it is never too late to say sorry.|{^h} knew now that the truth is lighter than a lie.|Since then, {h} always told {e} everything.]",
        ],
    },
    Plot {
        title: "[The new neighbor|{^h} and the shy {f.kind}|A new friend for {h}]",
        bind: &[("game", "game"), ("gift", "gift"), ("place", "place")],
        paragraphs: &[
            "{#opening} {#one day}, a new family moved in [next door|across the road|down the road]. They had {a #small} {f.kind} named {f}. {^f} was very shy. {^f.he} [hid behind {f.his} mother|looked at the ground|did not say a word].",
            "\"[Hello|Good morning]!\" {#cried} {h}. \"Do you want to play {game}?\" {^f} [turned red|shook {f.his} head] and ran away. {^h} was {#sad}. \"[{^f} does not like me|I did something wrong],\" {h.he} said to {e}. \"No,\" said {e}. \"Some friends come [fast, and some come slowly|like the sun, and some come like the spring]. [Give it time|Wait a little].\"",
            "So {h} [waited|thought of something]. {^#next day}, {h.he} put {a gift} in front of the door and went away. The day after that, {h.he} [drew a picture|wrote a little note] and left it there. Each time, {h} saw {f} at the window. Each time, {f} smiled a bit more.",
            "On the [third|fourth|fifth] day, {h} was [sitting|playing] alone {place}. {#sky} [Then {h.he} heard soft steps.|Someone came and stood beside {h.him}.] It was {f}. \"[Hello|Good morning],\" said {f} in a very small voice. \"I would like to play now, if you still want to.\"",
            "\"[Of course|I would love to|Yes, please]!\" said {h}. They played {game} until [the sun went down|it was dark|supper]. {^f} was not shy any more. {^f.he} [laughed|talked and laughed] the whole time. {#end f}",
        ],
    },
    Plot {
        title: "[The {flower}|{^h} plants a seed|{^h} and the small seed]",
        bind: &[("flower", "flower"), ("days", "days")],
        paragraphs: &[
            "{#opening} {#one day}, {e} gave {h} a tiny seed. \"[What is it|What will it be]?\" {#asked} {h}. \"[Plant it and see|It is a secret|You will see],\" said {e}. \"But you must [be patient|look after it|wait].\"",
            "{^h} [made a hole in the ground|found a sunny place in the garden|filled a pot with soft earth], put the seed in, and gave it some water. Then {h.he} sat down and waited. Nothing happened. \"[It is not growing|It does not work]!\" {#cried} {h}. \"[It is only the first day|Seeds sleep before they wake up|Good things take time],\" said {e}.",
            "Every [morning|day] {h} went to look. {^h.he} gave it water when it was dry, and {h.he} [pulled the weeds|chased the snails away|sang to it]. {^f} [laughed|came to look]. \"You are talking to the earth,\" {f} said. \"[I am talking to my seed|It listens],\" {#said} {h}.",
            "After {days} days, {h} saw something green. It was [as small as a fingernail|no bigger than a pea|so small that {h.he} almost missed it]. \"[It is there|It is alive|Come and look]!\" {h} {#cried}. The little plant grew and grew. [First it had two leaves, then four, then eight.|It grew as high as {h.his} knee, and then as high as {h.his} nose.]",
            "And [in the summer|one fine day], there it stood, [tall and proud|in full bloom|bright in the sun]: {a flower}. [Everyone came to see it.|It was the finest {flower} in the whole village.|Even the bees were happy.] \"You see,\" said {e}, \"[it was in there all the time|you did that|water, sun and a little love].\" [{^h} understood that waiting can be a good thing.|And {h} thought, \"Small steps are still steps.\"|{^h} took a new seed and gave it to {f}.] {#end e}",
        ],
    },
    Plot {
        title: "[The big race|{^h} and the race|The race to {place.the}]",
        bind: &[("place", "place"), ("gift", "gift")],
        paragraphs: &[
            "{#opening} Every year there was a big race [in the village|for everyone who lived nearby]. The winner got {a gift}. {^h} wanted to win. {^h.he} [ran every day|practiced every morning|had waited for it all year], even [in the rain|when {h.he} was tired].",
            "{^#one day}, it was time. {#sky} Everyone stood in a line. {^f} was there too, and {f} was [fast|very fast|the fastest of all]. \"[Ready|On your marks], steady, go!\" {#cried} {e}. And off they went, [past the houses|over the bridge|down the lane] and on to {place.the}.",
            "At first {f} was in front. {^h} ran as fast as {h.he} could. {^h.his} heart went thump, thump, thump. [Step by step|Bit by bit] {h} came closer. [Now they were side by side.|Now only a few steps were left.] Then {f} [slipped on a stone|tripped over a root|fell into the mud] and cried out.",
            "{^h} could see the finish. [It was so close.|Nobody was in front of {h.him}.] But {h.he} [stopped|turned around] and ran back. \"Are you hurt?\" {h} {#asked}. \"My [foot|knee|leg] hurts,\" said {f}. \"[Put your arm around me|Lean on me],\" said {h}. \"[We will go together|We will walk to the end together].\"",
            "They were the very last to [arrive|finish], but [everyone|the whole crowd] clapped and cheered. {^e} came up to {h} with {a gift} in {e.his} hands. \"The race was won by the fastest,\" {e} said. \"But this is for [the kindest|the one who stopped].\" {^h} [turned red|smiled] and shared it with {f}. {#end f}",
        ],
    },
    Plot {
        title: "[The birthday|A gift for {f}|{^h} makes a present]",
        bind: &[("gift", "gift"), ("place", "place"), ("treasure", "treasure"), ("days", "days")],
        paragraphs: &[
            "{#opening} {#meet f} In {days} days it would be {f}'s birthday, and {h} had no present. {^h?} looked into {h.his} [purse|pocket|money box]. There was only one coin in it.",
            "{^h} went to the shop. There was [{a #color} bicycle|a big toy castle|a box of paints] in the window, but it cost [far too much|a lot of money|a hundred coins]. {^h} [went home slowly|walked home with {h.his} head down]. \"What is a good present?\" {h.he} asked {e}. \"[A good present is one that you have thought about|It does not have to cost much|The best gifts are made by hand],\" said {e}.",
            "{^h} thought about what {f} liked. Then {h.he} had an idea. {^h.he} went out and looked for things {place}. {#sky} {^h?} found {a treasure}, [a piece of wood|some moss|a long ribbon], and [{#count} acorns|a curly twig|some dry grass]. At home {h.he} worked [all evening|for hours|until late at night].",
            "[Then the day came|Then it was the birthday]. All the friends brought [big|expensive|shiny] presents. {^h} [waited until the end|was a little ashamed]. \"[It is not much|It is only a small thing],\" {h.he} said. {^f} opened it. Inside was a tiny [house|garden|boat|village], made of wood and moss, and in the middle of it lay the {treasure}.",
            "\"[Did you make this|You made this for me]?\" {#asked} {f}. \"Yes,\" said {h}. \"[It is the best present of all|I have never had anything so fine|I will keep it forever]!\" {#cried} {f}. {^h} was {#happy}. {#end f}",
        ],
    },
    Plot {
        title: "[A noise in the night|{^h} and the dark|What was that?]",
        bind: &[("noise", "noise")],
        paragraphs: &[
            "{#opening} [There was only one thing that {h} did not like: the dark.|{^h} was not afraid of dogs or deep water, but {h.he} was afraid of the dark.|By day {h} was brave, but at night {h.he} was not.] At night [every shadow looked like a monster|the room seemed so big|{h.he} pulled the blanket over {h.his} head].",
            "One night, {h} woke up. [The moon was behind the clouds.|It was very dark.|The house was still.] Then {h.he} heard it: {noise}. {^h} [sat up|held {h.his} breath|did not dare to move]. There it was again. \"Who is there?\" {h} asked in a small voice. Nobody answered.",
            "{^h} [tiptoed|ran|crept] to {e}. \"There is a monster,\" {h.he} [whispered|said]. \"I heard it.\" \"[A monster|Is that so|In our house]?\" said {e}. \"[Let us go and say hello to it|Then we must see what it wants|Then let us have a look]. [Take my hand|Hold my hand|You carry the lamp].\" {^h} was {#scared}, but {e.his} hand was warm.",
            "They went [down the stairs|along the hall|from room to room], step by step. The sound came again, [quite near now|louder this time]. {^e} lifted the lamp, and {h} looked. {noise.2}. {^h} began to laugh, and {e} laughed too.",
            "\"[The dark is just the day with its eyes closed|In the dark, small things sound big|A monster is often only a thing we have not looked at yet],\" said {e}. {^h} went back to bed. [Outside the moon came out.|The wind sang a soft song.|{^h.he} looked at the shadows, and they were only shadows.] And {h} was [not afraid any more|asleep before {h.he} could count to ten].",
        ],
    },
    Plot {
        title: "[The little {baby}|{^h} finds {a baby}|{^h} and the lost {baby}]",
        bind: &[("baby", "baby"), ("place", "place"), ("spot", "hiding"), ("days", "days")],
        paragraphs: &[
            "{#opening} {#one day}, {h} was walking {place}. {#sky} Suddenly {h.he} heard a [tiny|soft|thin] cry. {^h?} stopped and listened. There it was again. It came from {spot.the}.",
            "{^h} [bent down|went closer|looked]. There, {spot}, sat a small {baby}. It was [shaking|cold and wet|all alone], and it looked at {h} with big eyes. \"[Oh, you poor thing|Hello, little one],\" {h} said {#softly}. \"Where is your mother?\" The {baby} only cried.",
            "{^h} [wrapped it in {h.his} scarf|picked it up very gently|stayed beside it] and called {f}. \"[We should take it home|We could keep it],\" said {f}. {^h} [thought about it|shook {h.his} head]. \"[Its mother will be looking for it|I would like that too, but it needs its mother],\" {h.he} said. \"Let us [find her|look for her] first.\"",
            "So they [went from tree to tree|walked around {place.the}|asked at every house]. They [called|looked] and they listened. The {baby} [fell asleep in {h}'s arms|grew warm and quiet]. {^#at last}, they heard [a deep, worried call|an answer from far away]. [\"That is her!\"|\"There she is!\"] {#cried} {f}. And there was the mother.",
            "{^h} put the {baby} down, and it ran to its mother [as fast as its legs could carry it|on shaky legs]. She [licked|rubbed|sniffed] it from top to toe. Then she looked at {h} and {f} for a long time, as if to say thank you. {^h} was {#happy} and a little sad at the same time. But {days} days later, {h} saw the {baby} again {place}, and it [jumped for joy|came right up to {h.him}].",
        ],
    },
    Plot {
        title: "[The {vehicle}|{^h} and {f} build {a vehicle}]",
        bind: &[("vehicle", "vehicle"), ("stuff", "stuff"), ("tool", "tool"), ("days", "days")],
        paragraphs: &[
            "{#opening} {#meet f} {#one day}, {h} had an idea. \"Let us build {a vehicle}!\" {h.he} {#cried}. \"[Can we do that|But how|Do you know how]?\" {#asked} {f}. \"[We will find out|We can learn it],\" said {h}.",
            "They [collected|found] {stuff}, and {e} lent them a {tool}. They worked for {days} days. {^h} [held the pieces|measured], and {f} [tied them together|hit the nails]. [Sometimes they hit their fingers.|Sometimes it fell apart, and they had to start again.|Sometimes they did not agree, but they always made up.]",
            "{^#at last}, the {vehicle} was ready. It was [a bit crooked|not very pretty|painted {#color} and {#color}], but they [loved it|were proud of it]. \"[Now it needs a name|It must have a name]!\" said {f}. They called it [\"The Brave Duck\"|\"Sunshine\"|\"The Flying Fish\"|\"Grandmother\"].",
            "{^#next day}, they took it [out|for its first trip]. {#sky} Off they went. [It was wonderful|It went faster and faster|Everything went well], until there was a loud crack. A piece had come off. \"[Help|Hold on]!\" {#cried} {f}. {^h} [thought quickly|did not think long]. {^h.he} took [the scarf from {h.his} neck|{h.his} belt|a piece of rope] and tied the piece [tight|back on].",
            "It held. [Slowly and carefully|Very slowly] they went [home|back], wet and dirty and laughing. {^e} was waiting for them. \"[Well, does it work|How was it]?\" {e} {#asked}. \"[It works|Very well],\" said {h}. \"[Almost|Most of the time]!\" [{^h} and {f} knew now that a problem is smaller when you share it.|They had learned that it is good to have a friend who holds on.|{^e} laughed and gave them dry clothes.] {#end f}",
        ],
    },
    Plot {
        title: "[A bowl of {soup}|{^h} cooks {soup}|{^h} helps {e}]",
        bind: &[("soup", "soup"), ("chore", "chore"), ("root", "vegetable")],
        paragraphs: &[
            "{#opening} {#one day}, {h} went to visit {e}. But {e} was [ill|sick in bed|not well]. {^e.he} had a red nose, and {e.his} voice was very weak. \"I have not eaten [today|since yesterday],\" {e.he} said. \"I am too weak to cook.\"",
            "\"[Then I will cook for you|I will make you some soup],\" said {h}. {^h.he} had never [cooked|made soup] before, but {h.he} had often watched. {^h} went into the kitchen and looked around. There was [a big pot|an old black pot], some salt, and nothing else. \"[Hm|Oh dear],\" said {h}. \"That will be a very thin soup.\"",
            "So {h} went [from door to door|out] and asked the neighbors. {^f} gave {h.him} {#count} {s root}. [The baker gave {h.him} some bread.|The farmer gave {h.him} a cup of milk.|The fisherman gave {h.him} a bunch of herbs.] \"[Say hello to {e}|Tell {e} to get well soon],\" they all said. {^#later}, {h.his} basket was full.",
            "{^h} washed everything and cut it up. {^h.he} [made a fire|stirred the pot] and tasted. [It needed more salt.|It was too hot, and {h.he} burned {h.his} tongue.|It smelled better and better.] {^#at last}, the {soup} was ready. {^h} carried a bowl to the bed, step by step, and did not spill a drop.",
            "{^e} ate [one spoon, and then another|it all up]. \"This is the best {soup} I have ever had,\" {e.he} said, and there was some color in {e.his} face again. Then {h} {chore.past} and [sat at the bed|told {e} a story] until {e} fell asleep. {^#next day}, {e} was [much better|well again]. {#end e}",
        ],
    },
    Plot {
        title: "[One coin|{^h} goes to the market|{^h} at the market]",
        bind: &[("food", "food"), ("toy", "toy"), ("treasure", "treasure")],
        paragraphs: &[
            "{#opening} {#one day}, {e} gave {h} a coin and said, \"Please go to the market and [buy|bring me] {a food}. [Do not lose the coin|Hold it tight|Come straight home].\" {^h} was {#happy}, because {h.he} had never gone to the market alone.",
            "The market was [full of people|loud and bright]. There were [baskets of apples|pots and pans|fish and cheese] and [flowers of every color|live chickens|carpets from far away]. One man sold toys. He had {a toy}, [just like the one in {h}'s dreams|and it was beautiful]. \"Only one coin,\" said the man. {^h} looked at the {toy}, and {h.he} looked at the coin. {^h.his} hand was already [open|on it].",
            "\"[But {e} is waiting|No, this coin is not mine],\" {h} thought. {^h.he} [shook {h.his} head|put the coin back into {h.his} pocket] and went on. It was [hard|not easy]. {^h} bought the {food} and [turned to go home|said thank you].",
            "On the way {h} saw something [shiny|bright] on the ground. It was a [little bag|purse], and it was full of coins. \"[I could buy the {toy} now|Nobody would know],\" {h.he} thought. But [beside the well|at the corner] sat {a #small} {f.kind} who was crying. \"I have lost my [purse|money],\" {f.he} said. \"[My mother will be so sad|It was all we had].\" It was {f}. {^h} held out the bag. \"[Is this yours|Here it is],\" {h.he} said.",
            "{^f} could not believe it. {^f.he} laughed and cried at once. \"[You are so honest|There is nobody like you]!\" {f.he} said. \"I have nothing to give you but this.\" And {f} gave {h} {a treasure}. {^h} ran home and told {e} everything. {^e} [smiled|was quiet for a moment]. \"[You went out with one coin and came home rich|I sent the right one],\" {e.he} said.",
        ],
    },
    Plot {
        title: "[The kite in the tree|Stuck in the tree|{^h} and the {color} kite]",
        bind: &[("color", "color"), ("place", "place")],
        paragraphs: &[
            "{#opening} {#meet f} {#one day}, {h} and {f} took {a color} kite and went out to fly it {place}. {#sky} The kite went up, up, up, until it was [no bigger than a bird|a small dot|as high as the clouds].",
            "Then a [strong|sudden] wind came. The string [broke|slipped out of {h}'s hand], and the kite [flew away|danced through the air]. It came down in the very top of a [tall|big|high] tree. \"[Oh no|Our kite]!\" {#cried} {f}. {^h} jumped, but {h.he} was far too small.",
            "\"[Let us throw something|I will throw my shoe],\" said {h}. So {h.he} threw {h.his} shoe. Now there was a shoe in the tree too. \"[Let us shake the tree|I will climb up],\" said {f}. {^f.he} tried, but [the tree was too thick|the lowest branch was too high]. They [sat down|looked at each other]. [They did not know what to do.|They had no more ideas.]",
            "[A {#color} bird|A squirrel|A crow] was sitting in the tree. It looked at the kite, and it looked at the shoe, and then it [began to pull at the string|gave the kite a push]. {^h} and {f} [held their breath|did not move]. [Down|Slowly, slowly, down] came the kite, and right after it came the shoe. It landed [on {f}'s head|in a puddle|with a thump].",
            "{^h} and {f} laughed until [they could not stand|their tummies hurt]. {^h} [put some bread crumbs|laid {#count} nuts] under the tree. \"[Thank you, little one|That is for you]!\" {h.he} {#cried}. {#end f}",
        ],
    },
    Plot {
        title: "[The first snow|{^h} in the snow|The snow {f.kind}]",
        bind: &[("color", "color"), ("food", "food")],
        paragraphs: &[
            "{#opening} One winter morning, {h} woke up, and everything was [white|quiet and white]. It had snowed [all night|while {h.he} was asleep]. \"[Snow|It has snowed]!\" {#cried} {h}. {^h.he} put on {h.his} {color} coat and ran outside.",
            "{^f} was already there. \"Let us [make a snowman|build something big],\" {f} said. They rolled a [small|big] ball, and then a bigger one, and then [the biggest one of all|one that was too heavy to lift]. For the eyes they took [two stones|two nuts|two buttons], and for the nose they took [a carrot|a pine cone|a stick].",
            "\"[He looks cold|Something is missing],\" said {h}. {^h?} took off {h.his} own [hat|scarf] and gave it to the snowman. Now the snowman looked [happy|very fine|just right]. But {h} was cold. {^h.his} ears turned red, and {h.his} teeth began to chatter.",
            "\"[You will catch a cold|Silly you]!\" said {f}. {^f.he} pulled off {f.his} own scarf. It was [long|so long] enough for two. So they [wrapped it around both of them|stood side by side in one scarf] and looked at what they had made. [The snow fell softly.|It began to snow again.|The sun came out, and the snow shone like glass.]",
            "When they came home, {e} gave them [hot milk|hot tea|warm soup] and {a food}. {^h} sat at the window and [waved|looked out]. \"[Good night, snowman|Sleep well],\" {h.he} said. And [it almost looked as if the snowman smiled|{h} was sure that the snowman waved back].",
        ],
    },
    Plot {
        title: "[A wish upon a star|{^h} and the star|{^h} looks at the moon]",
        bind: &[("place", "place"), ("skill", "skill"), ("pet", "pet")],
        paragraphs: &[
            "{#opening} Every night, before {h.he} went to sleep, {h} looked out of the window at the stars. [There was one that was brighter than all the others.|One of them always seemed to wink at {h.him}.] \"[That one is mine|I wish I could touch it],\" {h.he} {#said}.",
            "\"How far away are the stars?\" {h} asked {e}. \"[Farther than the sea|So far that no one has ever walked there|Very, very far],\" said {e}. \"But if you see one fall, you may make a wish.\" From then on, {h} [watched the sky every night|sat at the window and waited].",
            "One [clear|warm|quiet] night, {h} and {f} lay in the grass {place}. They [counted the stars|did not talk much]. [The night smelled of hay.|The frogs were singing.|An owl called from the wood.] \"There!\" {#cried} {f}. A star fell across the sky, [as bright as a candle|quick as a fish]. \"Make a wish!\"",
            "{^h} closed {h.his} eyes. {^h.he} had so many wishes. {^h.he} wanted [a {pet}|a boat with a white sail|to {skill}]. {^h.he} wanted [to see the sea|a room full of books|to be big and strong]. But then {h.he} felt the grass under {h.his} back, and {h.he} heard {f} breathing beside {h.him}. \"What did you wish?\" {#asked} {f}.",
            "\"[I wished that it would always be like this|I did not know what to wish for, because I have it all],\" said {h}. {^f} [took {h.his} hand|smiled in the dark]. High above them [the bright star winked|the moon came up over the hill]. And they stayed until {e} called them [home|in].",
        ],
    },
    Plot {
        title: "[Hide and seek|{^h} cannot be found|The best hiding place]",
        bind: &[("spot", "hiding"), ("place", "place"), ("food", "food")],
        paragraphs: &[
            "{#opening} {#meet f} {#one day}, they played hide and seek {place}. {^f} closed {f.his} eyes and began to count: \"One, two, three, four, five.\" {^h} looked for a good place to hide.",
            "First {h.he} hid {#hiding}, but [{h.his} feet could be seen|it was too small]. Then {h.he} hid {#hiding}, but [it made {h.him} sneeze|that was too easy]. {^#at last}, {h} crept away and hid {spot}. It was perfect. \"[Here I come|Ready or not, I am coming]!\" {#cried} {f}.",
            "{^f} looked {#hiding}. {^f.he} looked {#hiding}. {^h} could hear {f.his} steps, and {h.he} [put a hand over {h.his} mouth|tried not to laugh]. The steps came near, and then they went away. [It was warm and quiet.|It was soft, and a fly hummed.] {^h} [closed {h.his} eyes for a moment|yawned]. And then {h.he} was fast asleep.",
            "{^f} looked everywhere. \"[I give up|You win], {h}!\" {f.he} {#cried}. \"Come out!\" But nobody came. {^f} began to worry and ran to {e}. Soon everyone was [looking for {h}|calling {h}'s name]. \"{^h}! Where are you?\" The sun went down, and it was getting [dark|cold].",
            "Then {e} had an idea. {^e.he} took {a food}, fresh and warm, and carried it slowly around {place.the}. [The smell went everywhere.|It smelled wonderful.] A head came up. \"Is it time for supper?\" {#asked} {h}, with [leaves|straw|dust] in {h.his} hair. Everyone laughed, and {f} laughed the loudest. \"You won,\" said {f}. \"[But next time, snore a little louder|But never hide so well again]!\"",
        ],
    },
    Plot {
        title: "[A letter for {e}|{^h} and the letter|The long way to {e}]",
        bind: &[("place", "place"), ("days", "days")],
        paragraphs: &[
            "{#opening} {#one day}, [the postman was ill|the postman had hurt his leg], and there was a letter for {e}. \"[Someone must take it there|It looks important],\" said {h}'s mother. \"I will take it,\" said {h}. \"[I know the way|I am big enough].\"",
            "{^h} put the letter [under {h.his} hat|into {h.his} bag] and set off. {#sky} First the way went past {place.the}. There {h} met {f}. \"Come and play with me!\" {#cried} {f}. \"[I cannot|Later],\" said {h}. \"I have a letter to bring.\" \"Can I come [too|with you]?\" {#asked} {f}. \"[Gladly|Yes], it is a long way.\"",
            "They walked and walked. [The road went up, and the road went down.|They sang all the songs they knew.] {^#later}, they came to a [wide|fast] stream. The [bridge|little bridge] was gone. \"[What now|How do we get across]?\" {#asked} {f}. {^h} looked around. There were some big, flat stones. \"[One after the other|Step where I step],\" {h.he} said. [Hop, hop, hop, and they were across.|They got wet feet, but the letter stayed dry.]",
            "It was already [evening|getting dark] when they came to {e}'s house. \"A letter for you!\" {#cried} {h}. {^e} opened it with [shaking hands|great care] and read. Then {e.he} began to [laugh|smile], and a tear ran down {e.his} cheek. \"[Is it bad news|What does it say]?\" {#asked} {h}.",
            "\"It is from my [brother|sister|oldest friend],\" said {e}. \"[After all these years|In {days} days] there will be a visit! If the letter had come too late, I would have missed it.\" {^e} [baked a cake|lit the fire], and {h} and {f} [told {e.him} about the stream|fell asleep by the fire]. {#end e}",
        ],
    },
    Plot {
        title: "[The quarrel|{^h} and {f} make up|Two friends and one {toy}]",
        bind: &[("toy", "toy"), ("place", "place"), ("food", "food")],
        paragraphs: &[
            "{#opening} {#meet f} They [never|hardly ever] quarreled. But one day they found {a toy} {place}. \"[I saw it first|It is mine]!\" said {h}. \"No, [I did|it is mine]!\" said {f}. {^h} pulled on one side, and {f} pulled on the other.",
            "\"[You are mean|You always want everything]!\" {#cried} {h}. \"[And you are worse|I do not want to play with you any more]!\" {#cried} {f}. {^f.he} let go, and {h} fell [into the grass|on {h.his} back]. {^f} went home without a word. Now {h} had the {toy} all to {h.himself}.",
            "But it was no fun [alone|without {f}]. {^h} [sat|walked around] with the {toy} and did not know what to do. The afternoon was [long|very long]. [It began to rain.|Even supper did not taste good.] \"[Where is {f}|Why are you alone]?\" {#asked} {e}. \"[We had a quarrel|I do not know],\" said {h}. \"[A toy cannot laugh with you|Being right can be lonely],\" said {e}.",
            "{^#next day}, {h} took the {toy} and went to {f}'s house. [{^h.he} was nervous.|{^h.his} steps were slow.] Just as {h.he} wanted to knock, the door opened. There stood {f}, with {a food} in {f.his} hands. \"I was [just coming|on my way] to you,\" said {f}. \"I am sorry.\" \"I am sorry too,\" said {h}.",
            "They [looked at each other and began to laugh|hugged each other]. \"You can have the {toy} on [Mondays|Fridays], and I can have it on [Tuesdays|Saturdays],\" said {h}. \"And the rest of the week?\" {#asked} {f}. \"[Then we play with it together|Then it belongs to us both].\" And so they did. {#end f}",
        ],
    },
    Plot {
        title: "[{^h} and the {pet}|The stubborn {pet}|The {pet} that would not go]",
        bind: &[("pet", "pet"), ("fruit", "fruit"), ("place", "place")],
        paragraphs: &[
            "{#opening} {^e} had a {pet}, and the {pet} was [very stubborn|known to everyone]. {#one day}, {e} said, \"{^h}, could you bring the {pet} home? It is {place}.\" \"[That is easy|Nothing easier],\" said {h}.",
            "But it was not easy at all. The {pet} stood {place} and did not move. {#sky} \"Come,\" said {h}. The {pet} looked at {h.him} and [chewed|blinked]. {^h} [pulled|pushed]. The {pet} stayed where it was. {^h} [clapped {h.his} hands|shouted]. The {pet} [lay down|closed its eyes].",
            "{^f} came along the path. \"[You must be strict|Let me try],\" said {f}. {^f.he} made a [fierce|serious] face and said, \"Go home, now!\" The {pet} [turned its back on {f.him}|yawned]. [\"That is the most stubborn {pet} in the world,\"|\"It is no use,\"] said {f}. They both sat down in the grass, because they were {#tired}.",
            "{^h} was hungry and took {a fruit} from {h.his} pocket. {^h?} took a bite. The {pet} opened one eye. Then it opened the other. It [got up|came closer] and [sniffed|stretched its neck]. \"[Aha|So that is it]!\" said {h}. {^h.he} got up and walked away, with the {fruit} behind {h.his} back. And the {pet} came after {h.him}, step by step.",
            "So they went home: first {h} with the {fruit}, then the {pet}, and then {f}, who laughed all the way. \"[How did you do it|What did you do]?\" {#asked} {e}. \"[I asked in the right way|I only had to find out what it wanted],\" said {h}, and {h.he} gave the rest of the {fruit} to the {pet}. [{^h} knew now that a kind word is stronger than a loud one.|From then on, the {pet} came whenever {h} called.|And {h} never pulled or pushed it again.]",
        ],
    },
    Plot {
        title: "[The lazy day|{^h} does the chores|{^h} and the hundred little jobs]",
        bind: &[("a", "chore"), ("b", "chore"), ("c", "chore"), ("game", "game"), ("food", "food")],
        paragraphs: &[
            "{#opening} {#one day}, {e} said, \"{^h}, please {a}.\" \"[Later|In a minute],\" said {h}, and went on [playing|reading|dreaming]. In the afternoon {e} said, \"{^h}, please {b}.\" \"[Later|Soon|Tomorrow],\" said {h}. {^e} [sighed|said nothing] and did it alone.",
            "{^#next day}, {h} woke up and was hungry. But there was [no breakfast|nothing on the table]. {^e} sat in {e.his} chair [and read|with a book]. \"Could you please make breakfast?\" {#asked} {h}. \"[Later|In a minute],\" said {e}. {^h} waited. \"Could you please help me find my [shoes|coat|hat]?\" \"[Tomorrow|Soon],\" said {e} [and turned a page|with a smile].",
            "{^h} [stood still|thought about it]. \"[Now I know how it sounds|That is what I always say],\" {h.he} said. {^h.his} face turned red. Then {h.he} [rolled up {h.his} sleeves|ran into the yard]. {^h} {a.past}. When that was done, {h.he} {b.past}. And because it was going so well, {h.he} {c.past} too.",
            "{^f} looked over the fence. \"Do you want to play {game}?\" {f} {#asked}. \"[When I am done|Not yet],\" said {h}. \"[Then I will help you|With two it is faster]!\" said {f}. They [sang|told jokes] while they worked, and {#later} everything was [clean|done].",
            "When {e} came [in|out], {e.he} could not believe {e.his} eyes. \"[Who has done all this|Did a fairy come by]?\" {e.he} {#asked}. \"[We have|A hungry one]!\" said {h}. {^e} laughed and put {a food} on the table, big enough for three. And then they all played {game} [until it was dark|together].",
        ],
    },
    Plot {
        title: "[The old map|{^h} and the treasure|The treasure of {e}]",
        bind: &[
            ("spot", "hiding"),
            ("place", "place"),
            ("other", "place"),
            ("treasure", "treasure"),
            ("count", "count"),
        ],
        paragraphs: &[
            "{#opening} {#one day}, {h} found [an old|a yellow] piece of paper {spot}. There were lines on it, and a big {#color} cross. \"[It is a map|A treasure map]!\" {#cried} {h}, and {h.he} ran to {f} [at once|as fast as {h.he} could]. \"[We must find it|Let us go]!\" said {f}.",
            "The map said: \"Start {place}.\" So they [ran|went] there. {#sky} \"Now take {count} big steps to the [north|left|east],\" {#said} {h}, [reading the map|with the map in {h.his} hands]. {^f} counted the steps. They came to [a bush|a big stone|a little gate]. \"[Now look up|Turn around],\" said the map. And there was an arrow, cut into [a tree|the wood].",
            "The arrow pointed to {other.the}. [It was a long way.|They had to climb over a wall.|They had to go around a very angry goose.] [Twice|Once] they went the wrong way. \"[Maybe there is no treasure|I am {#tired}],\" said {f}. \"[Only a little more|We have come so far],\" said {h}. Then they saw the cross, painted on [an old wall|a flat stone].",
            "They dug with their hands. [They dug and dug.|The hole became deeper.] Then there was a knock. A box! {^h} opened the lid. Inside there was [no gold|not a single diamond]. There was {a treasure}, [a broken watch|a tin soldier|a blue ribbon], and a picture of two [small|laughing] children. \"[I know that nose|I have seen that nose before]!\" said {f}.",
            "\"That is me,\" said someone behind them. It was {e}. \"[I hid it when I was as small as you|My best friend and I buried it many years ago].\" {^e} took the {treasure} in {e.his} hand and [was quiet for a while|smiled]. \"Put something of yours into the box,\" {e.he} said, \"and hide it again.\" So {h} and {f} did. And [maybe|one day] someone will find it.",
        ],
    },
    Plot {
        title: "[The song|{^h} sings|{^h} and the lost song]",
        bind: &[("place", "place"), ("days", "days")],
        paragraphs: &[
            "{#opening} {^h} loved to sing. {^h.he} sang [in the morning|while {h.he} was washing], and {h.he} sang [in the evening|on the way to bed]. [Everyone in the village knew {h.his} voice.|Even the birds stopped to listen.]",
            "{^#one day}, {h} opened {h.his} mouth, and no sound came out. [Not a single note.|Only a little squeak.] {^h} was {#scared}. \"[I have lost my song|My voice is gone],\" {h.he} [wrote on a piece of paper|whispered]. {^e} looked into {h.his} throat. \"[You have a cold|Your voice is tired],\" said {e}. \"It needs [rest|tea with honey and no talking] for {days} days.\"",
            "[So many days|All that time] without singing! {^h} sat {place} and was {#sad}. {#sky} Because {h.he} could not sing, {h.he} listened. {^h?} heard [the bees|the wind in the grass|the water]. {^h?} heard [a cricket|a far bell|a cart on the road]. [It all went together.|It was almost like music.] {^h} had never noticed it before.",
            "{^f} came and sat down beside {h.him}. {^h} pointed to {h.his} ear. They [sat|listened] together, and they did not say a word. [{^f} began to tap on a stone.|{^f} picked up a blade of grass and blew on it.] {^h} clapped [softly|in time]. It was a song without [words|a voice], and it was [beautiful|a good one].",
            "When the {days} days were over, {h} opened {h.his} mouth, and there was {h.his} voice again, clear and bright. And {h} sang a new song. It had the bees in it, and the wind, and {f} [who tapped on a stone|who sat in the grass]. \"[That is the finest song you ever made|I have never heard a finer song],\" said {e}. \"[I heard it|It was there all the time],\" said {h}. \"I was only too loud before.\"",
        ],
    },
];
